"""Rows -> conversations -> tokens and labels. What the preview shows and what the trainer gets, from one encoder."""

from studio.data.classes import Classes, classes_of, find_classes
from studio.data.conversations import read_conversations
from studio.data.encode import Encoded, encode_conversation, encode_row, encode_rows
from studio.data.encode_cache import encode_once
from studio.data.held_out import load_evaluation, split_conversations
from studio.data.load import load_conversations

__all__ = [
    "Classes",
    "Encoded",
    "classes_of",
    "encode_conversation",
    "encode_once",
    "encode_row",
    "encode_rows",
    "find_classes",
    "load_conversations",
    "load_evaluation",
    "read_conversations",
    "split_conversations",
]
