"""Encoding with the trained tokenizer.json."""
import json

import regex

SPLIT = regex.compile(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    printable = lambda b: 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE
    others = iter(range(0x100, 0x200))
    return [chr(b) if printable(b) else chr(next(others)) for b in range(256)]


class Tokenizer:
    def __init__(self, path):
        spec = json.load(open(path, encoding="utf-8"))
        self.vocab = spec["model"]["vocab"]
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(spec["model"]["merges"])}
        self.added = {t["content"]: t["id"] for t in spec["added_tokens"]}
        self.tokens = {i: t for t, i in self.vocab.items()}
        self.names = {i: t for t, i in self.added.items()}
        self.alphabet = byte_alphabet()
        self.bytes_of = {c: b for b, c in enumerate(self.alphabet)}
        self.split_added = regex.compile("(" + "|".join(regex.escape(t) for t in self.added) + ")")
        self.cache = {}

    def __len__(self):
        return len(self.vocab) + len(self.added)

    def word(self, piece):
        ids = self.cache.get(piece)
        if ids is None:
            parts = [self.alphabet[b] for b in piece.encode("utf-8")]
            while len(parts) > 1:
                rank, at = min((self.ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(parts, parts[1:])))
                if rank == 1 << 30:
                    break
                parts[at:at + 2] = [parts[at] + parts[at + 1]]
            ids = self.cache[piece] = [self.vocab[p] for p in parts]
        return ids

    def encode(self, text):
        out = []
        for part in self.split_added.split(text):
            if part in self.added:
                out.append(self.added[part])
            else:
                for piece in SPLIT.findall(part):
                    out.extend(self.word(piece))
        return out

    def decode(self, ids):
        text, run = [], bytearray()
        for i in ids:
            if i in self.names:
                text.append(run.decode("utf-8", "replace"))
                text.append(self.names[i])
                run = bytearray()
            else:
                run.extend(self.bytes_of[c] for c in self.tokens.get(i, ""))
        return "".join(text) + run.decode("utf-8", "replace")


def encode_example(tok, pieces, rng):
    """Pieces -> (ids, learn flags). A piece marked "cut" is shortened at a random token.

    Neighbouring unlearned text is encoded piece by piece; pieces begin and end where the split regex does.
    """
    ids, learn = [], []
    for text, mark in pieces:
        part = tok.encode(text)
        if mark == "cut":
            part = part[:rng.randint(0, len(part))]
        ids += part
        learn += [mark is True] * len(part)
    return ids, learn
