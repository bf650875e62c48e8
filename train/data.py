"""Problems for the nano models, generated from a seed.

A problem is a chain of small dependent operations on one running value (0..199). Its worked solution
writes each step on a line of its own, digit by digit, so that every token is either a copy or a fact about
numbers below 20. Without the worked solution the whole chain would have to be computed inside three layers,
which is what makes thinking worth its tokens.

    Day 2: 85-47→15-7=8→8-4-1=3→38
    label  copy   ones   tens    the digits put together
"""
import hashlib
import random
import re

from phrases import LANGS, PHRASES

LIMIT = 199
HELD_OUT_SHARE = 40  # one problem in 40 is never trained on


# ---- one operation, worked digit by digit ------------------------------------------------------------

def apply(value, op, n):
    return value + n if op == "+" else value - n if op == "-" else value * n


def work(value, op, n):
    """The worked line of one operation: `85-47→15-7=8→8-4-1=3→38`."""
    result = apply(value, op, n)
    parts = [f"{value}{op}{n}"]
    ones, tens = value % 10, value // 10
    if op == "+":
        low = ones + n % 10
        parts.append(f"{ones}+{n % 10}={low}")
        terms = [t for t in (tens, n // 10) if t] + ([1] if low > 9 else [])
        if terms:
            parts.append(terms_line(terms, "+", sum(terms)))
    elif op == "-":
        borrow = ones < n % 10
        high = ones + 10 * borrow
        parts.append(f"{high}-{n % 10}={high - n % 10}")
        if tens:
            terms = [tens] + ([n // 10] if n >= 10 else []) + ([1] if borrow else [])
            parts.append(terms_line(terms, "-", terms[0] - sum(terms[1:])))
    else:
        low = ones * n
        parts.append(f"{ones}*{n}={low}")
        if tens:
            parts.append(f"{tens}*{n}={tens * n}")
            if low > 9:
                parts.append(f"{tens * n}+{low // 10}={tens * n + low // 10}")
    parts.append(str(result))
    return "→".join(parts)


def terms_line(terms, op, total):
    return op.join(map(str, terms)) + (f"={total}" if len(terms) > 1 else "")


# ---- chains ------------------------------------------------------------------------------------------

def random_op(rng, value, used, smallest):
    """An operation that keeps the value in range. Operands differ within a problem, so that each is a clear pointer."""
    for _ in range(200):
        if rng.random() < (0.45 if 0 < value <= 66 else 0.05):
            op, n = "*", rng.randint(2, 5)
        else:
            op, n = rng.choice("+-"), rng.randint(smallest, 99)
        if n not in used and 0 <= apply(value, op, n) <= LIMIT:
            return op, n
    return ("+", rng.randint(10, 99)) if value <= 100 else ("-", rng.randint(10, 99))


def random_chain(rng, steps, ops_allowed="+-*", smallest=10):
    """`smallest`: of the operands of sums. From 10 on, how long a number is follows from its sign, one thing less to look up."""
    start = rng.randint(5, 99)
    used, ops, value = {start}, [], start
    while len(ops) < steps:
        op, n = random_op(rng, value, used, smallest)
        if op not in ops_allowed:
            continue
        used.add(n)
        ops.append((op, n))
        value = apply(value, op, n)
    return start, ops, value


def expression(start, ops):
    """The chain as one expression under the usual precedence, e.g. `(47+38)*2-9`."""
    text, has_sum = str(start), False
    for op, n in ops:
        if op == "*" and has_sum:
            text, has_sum = f"({text})", False
        text += f"{op}{n}"
        has_sum = has_sum or op != "*"
    return text


def canonical(kind, chains):
    """What makes a problem the same problem, whatever its language or wording."""
    return kind + "|" + "|".join(expression(start, ops) for start, ops, _ in chains)


def held_out(key):
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_SHARE == 0


# ---- problems ----------------------------------------------------------------------------------------

# chain, story, expr, compare, yesno; training sees more of the kinds that are rare in the test and hard to learn.
KIND_WEIGHTS = {True: [42, 39, 9, 8, 2], False: [23, 22, 7, 36, 12]}
STEP_WEIGHTS = [4, 7, 16, 17, 17, 15, 13, 11]  # of 1..8 steps: thinking shall matter


def labelled(rng, lang, kind, steps, smallest):
    """`chain`: numbered instructions. `story`: the same with a person, things and days."""
    p = PHRASES[lang]
    start, ops, value = chain = random_chain(rng, steps, smallest=smallest)
    label = rng.choice(p["labels"] if kind == "story" else p["step_labels"])
    joiner, stop = p["joiner"], p["stop"]
    if kind == "story":
        name, pronoun = rng.choice(p["people"])
        thing = rng.choice(p["things"])
        verbs = p["story_verbs"]
        text = [p["has"].format(name=name, n=start, thing=thing)]
        question = rng.choice(p["how_many"]).format(name=name, thing=thing)
    else:
        verbs, pronoun, text = p["chain_verbs"], "", [rng.choice(p["start"]).format(n=start)]
        question = rng.choice(p["result"])
    thought, running = [], start
    for i, (op, n) in enumerate(ops):
        tag = label.format(i=i + 1)
        choices = verbs["double"] if op == "*" and n == 2 and rng.random() < 0.5 else verbs[op]
        text.append(tag + p["colon"] + rng.choice(choices).format(n=n, pronoun=pronoun) + stop)
        thought.append(tag + p["colon"] + work(running, op, n))
        running = apply(running, op, n)
    return joiner.join(text + [question]), thought, str(value), [chain]


def plain_expression(rng, lang, steps, smallest, spaced):
    p = PHRASES[lang]
    chain = random_chain(rng, steps, "+-" if steps > 1 else "+-*", smallest=smallest if steps > 1 else 1)
    start, ops, value = chain
    thought, running = [], start
    for op, n in ops:
        thought.append(work(running, op, n))
        running = apply(running, op, n)
    text = expression(start, ops)
    if spaced and rng.random() < spaced:
        text = spaced_out(text)
    return rng.choice(p["what_is"]).format(e=text), thought, str(value), [chain]


def short_sum(rng, lang):
    """What people type first: one to three operations on small numbers, written in any way. Only trained, never tested."""
    p = PHRASES[lang]
    start = value = rng.randint(1, rng.choice([9, 9, 9, 20, 99, 199]))
    ops, steps = [], rng.choice([1, 1, 1, 1, 2, 2, 3])
    while len(ops) < steps:
        op = rng.choice("+++--**" if steps == 1 else "+-")
        n = rng.randint(2, 9) if op == "*" else rng.randint(1, rng.choice([9, 9, 9, 20, 99]))
        if 0 <= apply(value, op, n) <= LIMIT:
            ops.append((op, n))
            value = apply(value, op, n)
    chain = start, ops, value
    thought, running = [], start
    for op, n in ops:
        thought.append(work(running, op, n))
        running = apply(running, op, n)
    text = expression(start, ops)
    if rng.random() < 0.5:
        text = spaced_out(text)
    return rng.choice(p["what_is"] + p["what_is_short"]).format(e=text), thought, str(value), [chain]


def spaced_out(text):
    return re.sub(r"([-+*])", r" \1 ", text)


def comparison(rng, lang, steps, smallest):
    """Two people, each with a sum to work out; the answer is a name."""
    p = PHRASES[lang]
    counts = (steps // 2, steps - steps // 2)
    people = rng.sample(p["people"], 2)
    while True:
        chains = [random_chain(rng, c, "+-", smallest) for c in counts]
        if chains[0][2] != chains[1][2]:
            break
    text, thought = [], []
    for (name, _), (start, ops, _) in zip(people, chains):
        text.append(f"{name}{p['colon']}{expression(start, ops)}{p['stop']}")
        running = start
        for op, n in ops:
            thought.append(f"{name}{p['colon']}" + work(running, op, n))
            running = apply(running, op, n)
        thought.append(f"{name}={running}")
    (a, b), (first, second) = [c[2] for c in chains], [name for name, _ in people]
    larger, smaller = (first, second) if a > b else (second, first)
    more = rng.random() < 0.5
    winner = larger if more else smaller
    asked = p["who_more"] if more else p["who_less"]
    # Both results, which way round they are, the larger's name behind ^ and the smaller's behind _, what was asked, and so
    # which of the two: one decision a token, with all that it needs a few tokens before it, and the name at the end is a
    # copy of what followed the same mark. Three layers learn no longer way.
    sign, mark = ">" if a > b else "<", "^" if more else "_"
    thought.append(f"{first}={a}→{second}={b}→{sign}→^{larger}_{smaller}→{asked}→{mark}{winner}")
    text.append(asked)
    return p["joiner"].join(text), thought, winner, chains


def yes_no(rng, lang, steps, smallest):
    p = PHRASES[lang]
    chain = random_chain(rng, steps, "+-", smallest)
    start, ops, value = chain
    bound = value + rng.choice([-1, 1]) * rng.randint(10, 60)
    if bound < 0:
        bound = value + rng.randint(10, 60)
    thought, running = [], start
    for op, n in ops:
        thought.append(work(running, op, n))
        running = apply(running, op, n)
    word = p["yes"] if value > bound else p["no"]
    thought.append(f"{value}→{bound}→{'>' if value > bound else '<'}→{word}")
    return p["greater"].format(e=expression(start, ops), n=bound), thought, word, [chain]


def make_problem(rng, held=False, lang=None, kind=None, steps=None, max_steps=8):
    """One problem: dict of id, lang, kind, steps, question, thought, answer, chains. `held` picks the side of the split."""
    while True:
        la = lang or rng.choice(LANGS)
        k = kind or rng.choices(["chain", "story", "expr", "compare", "yesno"], KIND_WEIGHTS[held])[0]
        s = steps or rng.choices(range(1, 9), STEP_WEIGHTS)[0]
        s = min(s, max_steps)
        # One-digit operands come up in training alone, so that the model can do them, too.
        smallest = 10 if held or rng.random() < 0.7 else 1
        if not held and not (kind or steps) and rng.random() < 0.2:
            k = "short"
            question, thought, answer, chains = short_sum(rng, la)
            s = len(thought)
        elif k in ("chain", "story"):
            question, thought, answer, chains = labelled(rng, la, k, s, smallest)
        elif k == "expr":
            question, thought, answer, chains = plain_expression(rng, la, s := min(s, 3), smallest, 0 if held else 0.4)
        elif k == "compare":
            question, thought, answer, chains = comparison(rng, la, s := max(2, min(s, 6)), smallest)
        else:
            question, thought, answer, chains = yes_no(rng, la, s := min(s, 3), smallest)
        key = canonical("compare" if k == "compare" else "one", chains)
        if held_out(key) == held:
            return {"id": hashlib.sha256((key + question).encode()).hexdigest()[:12], "lang": la, "kind": k, "steps": s,
                    "question": question, "thought": "\n".join(thought), "answer": answer, "chains": chains}


def sentence(problem):
    """The answer as the model says it."""
    return PHRASES[problem["lang"]]["answer"].format(a=problem["answer"])
