"""Switchyard and transformers read each other's models and tokenizers; see tests/interop/run --help."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch  # noqa: E402  after the environment
import transformers  # noqa: E402
from ours_part import check_ours, check_tokenizers  # noqa: E402
from refusals_part import check_refusals  # noqa: E402
from support import Program, Report  # noqa: E402
from theirs_part import check_theirs  # noqa: E402

PARTS = {"tokenizers": check_tokenizers, "ours": check_ours, "theirs": check_theirs, "refusals": check_refusals}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--keep")
    parser.add_argument("--only", action="append", choices=PARTS)
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(2)
    program, report, start = Program(options.binary), Report(), time.monotonic()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}", flush=True)
    with tempfile.TemporaryDirectory(prefix="interop-") as temporary:
        work = Path(temporary)
        if options.keep:
            work = Path(options.keep).resolve()
            work.mkdir(parents=True)
        for name, part in PARTS.items():
            if options.only and name not in options.only:
                continue
            print(f"\n== {name}", flush=True)
            (work / name).mkdir()
            report.guarded(name, lambda: part(report, program, work / name))
    print(f"\n{report.passed} passed, {len(report.failures)} failed in {time.monotonic() - start:.0f} s")
    for what in report.failures:
        print(f"failed: {what}")
    sys.exit(1 if report.failures else 0)


main()
