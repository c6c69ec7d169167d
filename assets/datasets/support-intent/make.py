"""Write the `support-intent` data set: short messages to a shop's help desk, each with what the writer wants.

    python make.py

rewrites `train.jsonl` (408 rows) and `test.jsonl` (84 rows) beside this file, byte for byte the same on every run. A
message is a core sentence that carries the intent, perhaps with a remark that says nothing, a greeting and a farewell,
in one of several styles (plain, lower case, mistyped, in a hurry).

In the pools below one line is one sentence. Those after a line `--` are held out: they occur in test messages only.
`{thing}`, `{name}` and `{number}` are filled at random.
"""

import json
import random
import re
from pathlib import Path

PER_INTENT = {"train": 68, "test": 14}  # rows of each of the six intents
HELD_OUT_SHARE = 0.75  # of the test messages are built on a sentence that no training message has
SEED = 2718
STYLES = ("plain", "plain", "plain", "lower", "typos", "hurry")

CORES = {
    "refund": """
        I would like my money back for the {thing}.
        When will you pay me back for the {thing} I returned?
        Please refund order {number}.
        The {thing} went back two weeks ago and nobody has repaid me.
        Can the price of the {thing} be put back on my card?
        I sent the {thing} back and want what I paid.
        How long does it take until a returned {thing} is paid out?
        I am not happy with the {thing} and ask for a full refund.
        You promised to return my money and I have not seen a penny.
        Kindly reimburse me for the {thing}.
        The {thing} does not suit me, so I want to hand it back for cash.
        I was told order {number} would be reimbursed.
        --
        Is there any news on the repayment for my {thing}?
        I want every cent back that I spent on the {thing}.
        My refund for the {thing} is still missing.
        Return the sum I paid for order {number}, please.
        How do I get reimbursed for a {thing} I do not want?
        """,
    "delivery": """
        Where is my {thing}?
        The parcel with the {thing} has not come yet.
        Order {number} should have been here on Monday.
        The courier left the {thing} with a neighbour I do not know.
        Tracking has shown the same depot for a week.
        Can you tell me when the {thing} will be delivered?
        My package was sent to an old address.
        The driver says he rang, but I was in all day.
        Has the {thing} been shipped already?
        I waited at home and no van ever came with the {thing}.
        Could the {thing} be brought on a Saturday instead?
        The box arrived, but the {thing} was not in it.
        --
        Do you know what has become of parcel {number}?
        The {thing} is late and the tracking page says nothing.
        When does the courier come with my {thing}?
        I have not received the {thing} that I ordered in May.
        My shipment seems to be lost somewhere.
        """,
    "login": """
        I cannot log in any more.
        The page says that my password is wrong, and it is not.
        The mail to reset my password never comes.
        My account has been locked after three tries.
        How do I change the e-mail address I sign in with?
        I have forgotten which user name I chose.
        The code for signing in does not reach my phone.
        Somebody else seems to have got into my account.
        Signing in sends me round in circles.
        I have a new phone and cannot get past the second step of the login.
        Please unlock the account of {name}.
        Your site throws me out as soon as I have logged in.
        --
        My password is refused although I have just reset it.
        I am locked out of my profile.
        The sign-in page does not know my e-mail address.
        How can I get back into my account without the old phone?
        No login code arrives, whatever I try.
        """,
    "billing": """
        You have charged me twice for the {thing}.
        I need an invoice for order {number} with our tax number.
        The amount on my statement is not the price of the {thing}.
        Which payment is number {number} on my card?
        There is a fee on my bill that nobody told me about.
        Can I pay for the {thing} in three instalments?
        The invoice names the wrong company.
        My card was declined, and the bank says all is well.
        Please send the receipt for the {thing} once more.
        Why is the bill this month higher than the last one?
        I would like to pay by bank transfer from now on.
        The voucher was not taken off the total.
        --
        A second payment for the {thing} has left my bank account.
        The sum on the invoice does not match what I ordered.
        May I have a proper bill for order {number}?
        What is the extra charge on my statement for?
        I want to use another card for my payments.
        """,
    "fault": """
        The {thing} does not switch on.
        Since yesterday the {thing} makes a grinding noise.
        The screen of the {thing} stays black.
        The {thing} fell silent after an hour and will not start again.
        My {thing} gets so hot that I can smell it.
        A piece of the {thing} broke off while I cleaned it.
        The {thing} stops in the middle and shows error {number}.
        Water drips out of the {thing}.
        The battery of the {thing} is empty after ten minutes.
        None of the buttons on the {thing} do anything.
        The {thing} worked for a day and is dead now.
        How do I get the {thing} to stop flashing red?
        --
        My {thing} is broken and needs to be repaired.
        The {thing} only hums when I press the button.
        Error {number} comes up whenever I start the {thing}.
        There is smoke coming from the {thing}.
        The {thing} keeps turning itself off.
        """,
    "cancel": """
        Please cancel order {number}.
        I do not need the {thing} any longer, stop the order.
        I want to end my membership at the end of the month.
        How do I get out of the subscription?
        I ordered the {thing} by mistake, please call it off before it is sent.
        Do not renew my plan next year.
        Take me off the monthly coffee club.
        Can I still withdraw the order for the {thing}?
        My subscription should stop today.
        I have changed my mind about the {thing}, please do not send it.
        Please confirm that my contract ends in June.
        Close my subscription, I am moving abroad.
        --
        I wish to terminate the contract.
        Call off order {number} before it leaves your store.
        I would like to quit the monthly plan.
        The order for the {thing} was a slip, cancel it.
        Where can I unsubscribe from the yearly plan?
        """,
}
REMARKS = """
    I have been a customer for nine years.
    My sister told me about your shop.
    I am writing from a train, so excuse me if I stop in the middle.
    I have looked through your help pages and found nothing.
    This is the second time that I write.
    I called the hotline this morning and gave up after half an hour.
    The dog says hello.
    It is a present for my uncle.
    I am not good with such things.
    Otherwise I like your shop a lot.
    """
GREETINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "Good evening,", "To whom it may concern:")
FAREWELLS = ("Thank you.", "Thanks, {name}", "Regards, {name}", "Please answer soon.", "Cheers", "Yours, {name}")
THINGS = ("toaster", "lamp", "blender", "radio", "heater", "drill", "fan", "scale", "razor", "coffee machine", "vacuum")
NAMES = ("Ada", "Bilal", "Carmen", "Dorota", "Emeka", "Finn", "Gita", "Hugo", "Ines", "Jiro", "Kofi", "Lena")


def pool(block):
    """The sentences of a block: those for both splits, and those held out for the test."""
    both, _, held_out = block.partition("--\n")
    return tuple([line.strip() for line in part.splitlines() if line.strip()] for part in (both, held_out))


class Writer:
    """Writes the messages of one split; each list is used up before anything in it comes again."""

    def __init__(self, split):
        self.split = split
        self.rng = random.Random(f"{SEED}-{split}")
        self.decks = {}

    def draw(self, key, items):
        deck = self.decks.setdefault(key, [])
        if not deck:
            deck.extend(items)
            self.rng.shuffle(deck)
        return deck.pop()

    def message(self, intent):
        """One message with this intent."""
        seen, held_out = pool(CORES[intent])
        unseen = self.split == "test" and self.rng.random() < HELD_OUT_SHARE
        style = self.draw("style", STYLES)
        parts = [self.draw((intent, unseen), held_out if unseen else seen)]
        if style != "hurry":
            if self.rng.random() < 0.4:
                parts.insert(self.rng.randrange(2), self.draw("remark", pool(REMARKS)[0]))
            if self.rng.random() < 0.5:
                parts.insert(0, self.draw("greeting", GREETINGS))
            if self.rng.random() < 0.4:
                parts.append(self.draw("farewell", FAREWELLS))
        text = (
            " ".join(parts).replace("{thing}", self.draw("thing", THINGS)).replace("{name}", self.draw("name", NAMES))
        )
        text = text.replace("{number}", str(self.rng.randrange(1000, 99999)))
        if style == "lower":
            return text.lower()
        if style == "hurry":
            return shortened(text)
        return self.mistyped(text) if style == "typos" else text

    def mistyped(self, text):
        """Two letters change places, or one is lost, in up to three of the longer words."""
        words = text.split(" ")
        places = [place for place, word in enumerate(words) if re.fullmatch("[A-Za-z]{5,}", word)]
        for place in self.rng.sample(places, min(3, len(places))):
            word, at = words[place], self.rng.randrange(1, len(words[place]) - 2)
            swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            words[place] = self.rng.choice([swapped, word[:at] + word[at + 1 :]])
        return " ".join(words)


def shortened(text):
    """How somebody writes who is in a hurry."""
    for long, short in (("please ", "pls "), ("Please ", "pls "), (" you ", " u "), (" and ", " & "), (" are ", " r ")):
        text = text.replace(long, short)
    return text.rstrip(".") + "!!"


def generate():
    """Both splits as lists of rows; each round holds every intent once, and no message occurs twice."""
    used, splits = set(), {}
    for split, rounds in PER_INTENT.items():
        writer, rows = Writer(split), []
        for _ in range(rounds):
            intents = list(CORES)
            writer.rng.shuffle(intents)
            for intent in intents:
                text = writer.message(intent)
                while text.casefold() in used:
                    text = writer.message(intent)
                used.add(text.casefold())
                rows.append({"text": text, "label": intent})
        splits[split] = rows
    return splits


def render(rows):
    """The text of a split's file: one JSON object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main():
    """Write both files beside this one."""
    for split, rows in generate().items():
        Path(__file__).with_name(f"{split}.jsonl").write_bytes(render(rows).encode("utf-8"))


if __name__ == "__main__":
    main()
