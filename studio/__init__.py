"""SFT Studio: fine-tune language models in the browser, from the terminal, or both, from one recipe."""
