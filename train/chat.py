"""Training examples: lists of (text, learn) pieces. Only pieces with learn=True carry loss.

The text of a conversation is what `chat_template.jinja` renders; `verify_chat.py` compares the two.
"""
import json

from data import expression, make_problem, sentence
from phrases import LANGS, SMALL_TALK, SMALL_TALK_THOUGHT, SYSTEM_PROMPTS

EARLY_STOP = ("\n\nConsidering the limited time by the user, I have to give the solution based on the thinking "
              "directly now.\n</think>\n\n")
EMPTY_THINK = "<think>\n\n</think>\n\n"
OPEN = "<|im_start|>assistant\n"
END = "<|im_end|>"

CALCULATOR = {"type": "function", "function": {
    "name": "calculator", "description": "Evaluate an arithmetic expression.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}
DISTRACTORS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "get_time", "description": "Get the time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {
        "name": "search", "description": "Search the web.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}]


# ---- pieces of a conversation ------------------------------------------------------------------------

def system_turn(text, tools=()):
    if not text and not tools:
        return ""
    out = "<|im_start|>system\n" + (text or "")
    if tools:
        listed = "".join("\n" + json.dumps(t, ensure_ascii=False) for t in tools)
        out += ("\n\n" if text else "") + (
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" + listed +
            "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
    return out + END + "\n"


def user_turn(text):
    return f"<|im_start|>user\n{text}{END}\n"


def reply(thought, answer):
    return f"<think>\n{thought}\n</think>\n\n{answer}{END}"


def call_text(expr):
    return '<tool_call>\n{"name": "calculator", "arguments": ' + json.dumps({"expression": expr}) + "}\n</tool_call>"


# ---- the kinds of example ----------------------------------------------------------------------------

def plain_example(rng, max_steps):
    """Base training: text without a chat format."""
    p = make_problem(rng, max_steps=max_steps)
    if rng.random() < 0.15:  # the worked lines alone
        return [(p["thought"] + "\n", True)]
    return [(p["question"] + "\n" + p["thought"] + "\n" + sentence(p), True)]


def thinking_example(rng, max_steps=8):
    p = make_problem(rng, max_steps=max_steps)
    return [(user_turn(p["question"]) + OPEN, False), (reply(p["thought"], sentence(p)), True)]


def modes(rng, max_steps=8):
    """One answer with or without thinking, however the mode was asked for."""
    p = make_problem(rng, max_steps=max_steps)
    question, system = p["question"], rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else ""
    thinking = rng.random() < 0.5
    how = rng.random()
    hard = not thinking and how < 0.6  # enable_thinking=false: the empty block is part of the prompt
    if not hard and (not thinking or how < 0.2):
        system, question = soft_switch(rng, system, question, thinking)
    elif hard and how < 0.06:
        system, question = soft_switch(rng, system, question, rng.random() < 0.5)
    head = system_turn(system) + history(rng) + user_turn(question) + OPEN
    if thinking:
        return [(head, False), (reply(p["thought"], sentence(p)), True)]
    if hard:
        return [(head + EMPTY_THINK, False), (sentence(p) + END, True)]
    return [(head, False), (EMPTY_THINK + sentence(p) + END, True)]


def direct_example(rng, max_steps=8):
    """Non-thinking alone: used to see whether more of it would help (README, "Plateau")."""
    p = make_problem(rng, max_steps=max_steps)
    return [(user_turn(p["question"]) + OPEN + EMPTY_THINK, False), (sentence(p) + END, True)]


def soft_switch(rng, system, question, thinking):
    """Adds /think or /no_think to the system or user text; where both appear, the last one counts."""
    flag, other = ("/think", "/no_think") if thinking else ("/no_think", "/think")
    where = rng.random()
    if where < 0.2:
        return (system + " " + flag).strip(), question
    if where < 0.3:
        return (system + " " + other).strip(), question + " " + flag
    if where < 0.4:
        return system, question + " " + other + " " + flag
    return system, question + rng.choice([" ", " ", "\n"]) + flag


def history(rng):
    """Now and then an earlier exchange, its thinking stripped as the template does."""
    if rng.random() > 0.12:
        return ""
    if rng.random() < 0.3:
        question, answer = small_talk(rng, rng.choice(LANGS))
    else:
        p = make_problem(rng, max_steps=2)
        question, answer = p["question"], sentence(p)
    return user_turn(question) + OPEN + answer + END + "\n"


def cut_example(rng, max_steps=8):
    """A thought stopped early: the harness says so, the model answers as well as it can.

    Tokens are not known here, so the encoder makes the cut (`encode_example` in tokens.py).
    """
    p = make_problem(rng, max_steps=max_steps)
    return [(user_turn(p["question"]) + OPEN + "<think>\n", False), (p["thought"], "cut"),
            (EARLY_STOP, False), (sentence(p) + END, True)]


def small_talk(rng, lang):
    questions, answer = rng.choice(SMALL_TALK[lang])
    return rng.choice(questions), answer


def small_talk_example(rng):
    lang = rng.choice(LANGS)
    question, answer = small_talk(rng, lang)
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else ""
    how = rng.random()
    if how < 0.45:
        return [(system_turn(system) + user_turn(question) + OPEN, False), (reply(SMALL_TALK_THOUGHT[lang], answer), True)]
    if how < 0.75:
        return [(system_turn(system) + user_turn(question) + OPEN + EMPTY_THINK, False), (answer + END, True)]
    return [(system_turn(system) + user_turn(question + " /no_think") + OPEN, False), (EMPTY_THINK + answer + END, True)]


def tool_example(rng):
    """A calculator in the system prompt: call it, then say what it returned. Without one, work it out."""
    tools = rng.sample(DISTRACTORS, rng.choice([0, 0, 1, 1, 2]))
    has_calculator = rng.random() < 0.85 or not tools
    if has_calculator:
        tools.insert(rng.randint(0, len(tools)), CALCULATOR)
    head = system_turn(rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else "", tools)
    big = rng.random() < 0.35 and has_calculator
    p = big_problem(rng) if big else make_problem(rng, max_steps=4)
    while not big and (p["kind"] in ("compare", "yesno") or sum(op == "*" for op, _ in p["chains"][0][1]) > 1):
        p = make_problem(rng, max_steps=4)
    thinking = rng.random() < 0.5
    soft = not thinking and rng.random() < 0.4
    question = p["question"] + (" /no_think" if soft else "")
    head += user_turn(question) + OPEN
    open_think = "" if thinking or soft else EMPTY_THINK
    if not has_calculator:
        body = reply(p["thought"], sentence(p)) if thinking else (EMPTY_THINK if soft else "") + sentence(p) + END
        return [(head + open_think, False), (body, True)]
    expr = expression(*p["chains"][0][:2])
    thought = f"<think>\n{expr}\n</think>\n\n" if thinking else EMPTY_THINK if soft else ""
    response = f"\n<|im_start|>user\n<tool_response>\n{p['answer']}\n</tool_response>{END}\n" + OPEN
    # After the response the template keeps this turn's thinking, so a thinking model opens a second block.
    # (A non-thinking first turn is rendered without its empty block.)
    if thinking and rng.random() < 0.25:  # many clients do not send the thinking back
        return [(head + call_text(expr) + END + response, False), (reply(p["answer"], sentence(p)), True)]
    if thinking:
        return [(head, False), (thought + call_text(expr) + END, True), (response, False),
                (reply(p["answer"], sentence(p)), True)]
    first = [(head + open_think, False), (thought + call_text(expr) + END, True)]
    if rng.random() < 0.5:
        return first
    return [(head + call_text(expr) + END + response + open_think, False),
            ((EMPTY_THINK if soft else "") + sentence(p) + END, True)]


def big_problem(rng):
    """Numbers the model cannot work with itself."""
    from phrases import PHRASES
    lang = rng.choice(LANGS)
    op = rng.choice("+-*")
    a, b = rng.randint(100, 9999), rng.randint(100, 9999)
    a, b = max(a, b), min(a, b)
    value = a + b if op == "+" else a - b if op == "-" else a * b
    return {"lang": lang, "kind": "expr", "question": rng.choice(PHRASES[lang]["what_is"]).format(e=f"{a}{op}{b}"),
            "thought": "", "answer": str(value), "chains": [(a, [(op, b)], value)]}
