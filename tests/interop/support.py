"""What the parts of tests/interop/run share: running the program, texts to try, and the count of what held."""

import json
import os
import random
import subprocess
import sysconfig
from pathlib import Path

import numpy


class Report:
    """Prints a line for each thing that was checked, and counts."""

    def __init__(self):
        self.passed, self.failures = 0, []

    def check(self, holds, what, details=""):
        if holds:
            self.passed += 1
        else:
            self.failures.append(what)
        print(f"{'ok  ' if holds else 'FAIL'}  {what}{f': {details}' if details else ''}", flush=True)
        return bool(holds)

    def close(self, actual, expected, bound, what):
        """Every value within `bound` of the largest expected one."""
        if actual.shape != expected.shape:
            return self.check(False, what, f"shapes {actual.shape} and {expected.shape}")
        error = float(numpy.abs(actual.astype(numpy.float64) - expected).max() / numpy.abs(expected).max())
        return self.check(error <= bound, what, f"largest difference {error:.1e} of the largest value")

    def guarded(self, what, body):
        """Runs body(); an exception in it is a failure of `what`, and the rest goes on."""
        try:
            body()
        except Exception as error:  # whatever a foreign library throws
            self.check(False, what, f"{type(error).__name__}: {str(error).strip()[:600]}")


class Program:
    """The program switchyard."""

    def __init__(self, binary):
        self.binary = str(Path(binary).resolve())

    def try_(self, *arguments, ranks=1):
        """The finished process, whatever its exit code."""
        command = [self.binary, *map(str, arguments)]
        if ranks > 1:
            settings = ["--mca", "btl_vader_single_copy_mechanism", "none", "--mca", "btl", "self,vader"]
            command = ["mpirun", "-q", "--oversubscribe", "--bind-to", "none", *settings, "-np", str(ranks), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        return subprocess.run(command, capture_output=True, env=environment, timeout=600)

    def __call__(self, *arguments, ranks=1):
        """Standard output as bytes; RuntimeError unless the program succeeded."""
        done = self.try_(*arguments, ranks=ranks)
        if done.returncode != 0:
            raise RuntimeError(f"switchyard {arguments[0]} ended with code {done.returncode}: {done.stderr.decode(errors='replace')}")
        return done.stdout


def megatron_documents(prefix):
    """The documents of PREFIX.bin as lists of ids."""
    index = Path(f"{prefix}.idx").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    dtype = {4: numpy.int32, 8: numpy.uint16}[index[17]]
    sequences = int.from_bytes(index[18:26], "little")
    lengths = numpy.frombuffer(index, numpy.int32, sequences, 34)
    tokens = numpy.fromfile(f"{prefix}.bin", dtype)
    assert len(tokens) == lengths.sum()
    return [part.tolist() for part in numpy.split(tokens, numpy.cumsum(lengths)[:-1])]


def our_ids(program, tokenizer, texts, folder):
    """The ids that the program gives for each text (none of them empty), without the end of text."""
    lines = Path(folder) / "texts.jsonl"
    # Not as \u escapes: what is tried is the text, not a JSON reader.
    lines.write_text("".join(json.dumps({"t": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8", newline="\n")
    program("tokenize", "--text", lines, "--tokenizer", tokenizer, "--out", Path(folder) / "texts", "--document", "jsonl:t")
    documents = megatron_documents(Path(folder) / "texts")
    assert len(documents) == len(texts), f"{len(documents)} documents of {len(texts)} texts"
    return [ids[:-1] for ids in documents]


# ------------------------------------------------------------------------------------------------------------------------------- texts


def corpus():
    """(text to learn from, text held out): licences, C++ headers and Python sources, which every machine of ours has."""
    folders = ["/usr/share/common-licenses", "/usr/include/c++", sysconfig.get_path("stdlib")]
    files = sorted(
        path
        for folder in folders
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.is_symlink() and "site-packages" not in path.parts and path.suffix not in {".pyc", ".so", ".a"}
    )
    learn, held_out = [], []
    for number, path in enumerate(files):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            (held_out if number % 4 == 0 else learn).append(text[:200_000])
    return "".join(learn), "".join(held_out)


def passages(text, count, seed):
    """Pieces of 1 to 2000 characters from anywhere in a text, half of them around characters beyond ASCII."""
    source = random.Random(seed)
    rare = [at for at, character in enumerate(text) if ord(character) > 127]
    result = []
    for number in range(count):
        middle = source.choice(rare) if rare and number % 2 else source.randrange(len(text))
        size = source.randint(1, 2000)
        start = max(0, middle - source.randrange(size))
        result.append(text[start : start + size])
    return result


SNIPPETS = ["\n", "\n\n", "\r\n", "\t", " ", "  ", "     ", "\u2581", " \u2581", "\u2581\u2581", "\u00a0", "\u200b", "\ufeff", "\0", "\x7f", "\ufffd", "\u2028"]
SNIPPETS += ["<0x41>", "<0xE2>", "</s>", "<s>", "<unk>", "<|endoftext|>", "<piece 3>", "the", "The ", " of", "ing", "return ", "std::", "a", "=", "====", "aaaa"]
SNIPPETS += ["e\u0301", "\u00e9", "\uac00", "\u1112\u1161", "\u0e01\u0e33", "\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u05d0", "\u4e2d\u6587", "\ufb01", "\u212b"]
BLOCKS = [(0x20, 0x7E), (0x00, 0x1F), (0x80, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x2000, 0x2BFF), (0x3040, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xFFFF), (0x1F000, 0x1FAFF), (0x10000, 0x10FFFF)]


def random_strings(count, seed):
    """Strings of valid UTF-8 of 1 to 400 parts: characters of all blocks, runs, and what tokenizers stumble over."""
    source = random.Random(seed)
    result = []
    for _ in range(count):
        blocks = source.sample(BLOCKS, source.randint(1, 4))
        parts = []
        for _ in range(source.choice([1, 2, 5, 20, 100, 400])):
            kind = source.random()
            if kind < 0.4:
                parts.append(source.choice(SNIPPETS))
            elif kind < 0.5:
                parts.append(source.choice(SNIPPETS + [" ", "-", "x"]) * source.randint(2, 20))
            else:
                low, high = source.choice(blocks)
                point = source.randint(low, high)
                if not 0xD800 <= point <= 0xDFFF:
                    parts.append(chr(point))
        result.append("".join(parts) or " ")
    return result
