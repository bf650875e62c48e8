"""The grading rule, simple enough to repeat anywhere:

- the answer is the text after the last `</think>` (all of it where there is none);
- where the expected answer is a number, the last run of digits in the answer must equal it;
- where it is a word (a name, yes, no), the answer must contain that word and no other candidate:
  in practice, the answer without its final full stop must end with the word.
"""
import re


def grade(text, expected):
    answer = text.split("</think>")[-1].replace("<|im_end|>", "").strip()
    if re.fullmatch(r"\d+", expected):
        numbers = re.findall(r"\d+", answer)
        return bool(numbers) and numbers[-1] == expected
    return answer.rstrip(".。").endswith(expected)
