"""Checks that chat.py writes exactly what chat_template.jinja renders (needs python3-jinja2)."""
import json
import os
import random

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

import chat

env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
env.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
template = env.from_string(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat_template.jinja"), encoding="utf-8").read())


def check(expected, messages, **options):
    text = template.render(messages=messages, add_generation_prompt=messages[-1]["role"] != "assistant", **options)
    assert text == expected, f"\n{expected!r}\n{text!r}"


rng = random.Random(3)
tools = [chat.DISTRACTORS[0], chat.CALCULATOR]
user, system = {"role": "user", "content": "1+2=?"}, {"role": "system", "content": "Be brief."}
head = chat.user_turn("1+2=?")
check(chat.system_turn("Be brief.") + head + chat.OPEN, [system, user])
check(chat.system_turn("", tools) + head + chat.OPEN, [user], tools=tools)
check(chat.system_turn("Be brief.", tools) + head + chat.OPEN + chat.EMPTY_THINK, [system, user], tools=tools, enable_thinking=False)
check(head + chat.OPEN + chat.reply("1+2→3", "3") + "\n", [user, {"role": "assistant", "content": "3", "reasoning_content": "1+2→3"}])
check(head + chat.OPEN + "3" + chat.END + "\n" + head + chat.OPEN,
      [user, {"role": "assistant", "content": "<think>\n1+2→3\n</think>\n\n3"}, user])
call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "calculator", "arguments": {"expression": "1+2"}}}]}
result = {"role": "tool", "content": "3"}
response = "\n<|im_start|>user\n<tool_response>\n3\n</tool_response>" + chat.END + "\n" + chat.OPEN
check(head + chat.OPEN + chat.call_text("1+2") + chat.END + response, [user, call, result])
check(head + chat.OPEN + "<think>\n1+2\n</think>\n\n" + chat.call_text("1+2") + chat.END + response,
      [user, {**call, "reasoning_content": "1+2"}, result])
print("chat.py and chat_template.jinja agree")
