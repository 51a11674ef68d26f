"""AutoTokenizer from a directory of ours gives our ids, and the text back."""

import json
import shutil
from pathlib import Path

from support import corpus, our_ids, passages, random_strings
from transformers import AutoTokenizer

COUNT = 1000


def first_difference(texts, left, right):
    """How many differ, and the first that does, as a person can read it."""
    different = [i for i in range(len(texts)) if left[i] != right[i]]
    if not different:
        return 0, ""
    i = min(different, key=lambda i: len(texts[i]))
    at = next((k for k, (a, b) in enumerate(zip(left[i], right[i])) if a != b), min(len(left[i]), len(right[i])))
    return len(different), f"{len(different)} of {len(texts)} differ, the shortest {texts[i][:80]!r} at {at}: {left[i][at:at+5]} and {right[i][at:at+5]}"


def same_score(directory, left, right):
    """Whether two cuts of each text have sums of scores that are equal to the rounding of f32."""
    scores = [score for _, score in json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]]
    sums = [[sum(scores[id] for id in ids) for ids in side] for side in (left, right)]
    return all(abs(a - b) <= 1e-6 * abs(a) for a, b in zip(*sums))


def check_tokenizer(report, program, directory, tokenizer, work, ties=False):
    """`tokenizer`: what the program calls it, a file or 'bytes'. `ties`: ids may differ between cuts of the same score."""
    name = Path(directory).name
    theirs = AutoTokenizer.from_pretrained(directory)
    report.check(theirs.is_fast and theirs.eos_token_id is not None, f"{name}: AutoTokenizer loads it", type(theirs).__name__)
    _, held_out = corpus()
    for kind, texts in [("passages", passages(held_out, COUNT, 1)), ("random strings", random_strings(COUNT, 2))]:
        ours = our_ids(program, tokenizer, texts, work)
        ids = [theirs(text)["input_ids"] for text in texts]
        count, details = first_difference(texts, ours, ids)
        if ties:
            report.check(same_score(directory, ours, ids), f"{name}: scores of the cuts of {COUNT} {kind}", details)
        else:
            report.check(count == 0, f"{name}: ids of {COUNT} {kind}", details or f"{sum(map(len, ids))} ids, all equal")
        for skip in (False, True):
            back = [theirs.decode(part, skip_special_tokens=skip) for part in ours]
            _, details = first_difference(texts, texts, back)
            report.check(back == texts, f"{name}: text of our ids, skip_special_tokens={skip}", details)
    report.check(theirs("")["input_ids"] == [], f"{name}: an empty text has no ids")
    end = theirs.eos_token_id
    report.check(theirs.decode([end], skip_special_tokens=True) == "", f"{name}: the end of text is special")
    batch = theirs(["a b", "\n"])["input_ids"]
    report.check(batch == [theirs("a b")["input_ids"], theirs("\n")["input_ids"]], f"{name}: several texts at once")
    saved = Path(work) / f"{name}-saved"
    theirs.save_pretrained(saved)
    shutil.copy(Path(directory) / "config.json", saved)
    again = AutoTokenizer.from_pretrained(saved)
    texts = random_strings(100, 3)
    report.check([again(t)["input_ids"] for t in texts] == [theirs(t)["input_ids"] for t in texts], f"{name}: saved there and read again")
    return theirs
