"""The tokenizer's corpus on stdout: what the models read, without control tokens. Documents end with NUL."""
import random
import re
import sys

import chat

rng = random.Random(11)
kinds = [(chat.thinking_example, 6000), (chat.small_talk_example, 300), (chat.tool_example, 250),
         (chat.modes, 1000), (chat.cut_example, 100)]
for make, count in kinds:
    for _ in range(count):
        text = "".join(piece for piece, _ in make(rng))
        text = re.sub(r"<\|[a-z_]+\|>|</?(?:tool_call|tool_response|think)>", "\0", text)
        sys.stdout.write(text + "\0")
