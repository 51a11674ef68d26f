"""What save_pretrained writes loads here, with equal logits and equal greedy tokens."""

import copy
import json
import shutil
from pathlib import Path

import torch
from models import CLASSES, EXTRA, MIXTURES, SIZES, bytes_of, greedy, make_model, our_logits, some_ids, their_logits
from ours_part import BOUND, PROMPTS, Material, train, LLAMA, MIXTRAL, OLMOE
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


def names_in(directory):
    names = set()
    for path in Path(directory).glob("*.safetensors"):
        with safe_open(str(path), "np") as file:
            names |= set(file.keys())
    return names


def edit_json(path, change):
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content, indent=2))


def as_version_4(family, directory, theta):
    """config.json as the files on the Hub have it that transformers 4 wrote, by hand."""
    config = {
        "architectures": [CLASSES[family][1].__name__],
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "model_type": family,
        **{key: value for key, value in SIZES.items() if key != "head_dim"},
        "rope_theta": theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0",
        "use_cache": True,
    }
    if family in MIXTURES:
        config |= {key: value for key, value in EXTRA[family].items() if key != "head_dim"} | {"output_router_logits": False}
    if family == "olmoe":
        config |= {"attention_bias": False, "clip_qkv": None, "rope_scaling": None}
    if family == "llama":
        config |= {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": None}
    (Path(directory) / "config.json").write_text(json.dumps(config, indent=2))


# name, changes of the model, how it is saved
VARIANTS = [
    ("one file", {}, {}),
    ("shards", {}, {"max_shard_size": "60KB"}),
    ("fused names", {}, {"save_original_format": False}),
    ("fused names in shards", {}, {"save_original_format": False, "max_shard_size": "60KB"}),
    ("tied output", {"tie_word_embeddings": True}, {}),
    ("another rope_theta", {"theta": 1e6}, {}),
    ("heads of width / heads", {"head_dim": 10}, {}),
    ("as many kv heads as heads", {"num_key_value_heads": 4}, {}),
    ("another epsilon", {"rms_norm_eps": 0.05}, {}),
]


def check_logits(report, program, directory, what, work, reference=None, ranks=1):
    if reference is None:
        reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = some_ids(reference.config.vocab_size)
    report.close(our_logits(program, directory, ids, work, ranks), their_logits(reference, ids), BOUND, what)


def check_family(report, program, family, work):
    def case(what, body):
        report.guarded(f"{family}: {what}", body)

    def folder(what):
        path = Path(work) / f"{family} {what}".replace(" ", "-").replace("/", "")
        path.mkdir()
        return path

    for number, (what, changes, saving) in enumerate(VARIANTS):

        def variant():
            if family == "llama" and "fused" in what:
                return
            if family == "olmoe" and "head_dim" in changes:  # its heads are always of width / heads
                return
            directory = folder(what)
            model = make_model(family, seed=number + 1, **changes)
            model.save_pretrained(directory, **saving)
            files = list(directory.glob("*.safetensors"))
            names = names_in(directory)
            assert (len(files) > 1) == ("max_shard_size" in saving), f"{len(files)} files"
            if family in MIXTURES:
                assert any("gate_up_proj" in name for name in names) == ("fused" in what), sorted(names)[:8]
            assert ("lm_head.weight" in names) != ("tie_word_embeddings" in changes), "lm_head"
            check_logits(report, program, directory, f"{family}: {what}", work, model)
            if what == "shards":
                check_logits(report, program, directory, f"{family}: {what}, two ranks", work, model, ranks=2)

        case(what, variant)

    for dtype, stored in ((torch.bfloat16, "BF16"), (torch.float16, "F16")):

        def rounded():
            directory = folder(stored)
            make_model(family, seed=20).to(dtype).save_pretrained(directory)
            check_logits(report, program, directory, f"{family}: stored as {stored}, computed in f32", work)

        case(stored, rounded)

    def version_4():
        directory = folder("version 4")
        model = make_model(family, seed=30, theta=30000.0, head_dim=10)
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
        # The weights alone: .float() would keep the rounded frequencies of the rotary positions.
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.to(torch.bfloat16))
        as_version_4(family, directory, 30000.0)
        check_logits(report, program, directory, f"{family}: config.json of version 4", work, model)
        check_logits(report, program, directory, f"{family}: config.json of version 4, as transformers reads it", work)

    case("version 4", version_4)

    if family == "mixtral":

        def window():
            directory = folder("window")
            model = make_model(family, seed=31)
            model.save_pretrained(directory)
            edit_json(directory / "config.json", lambda config: config.update(sliding_window=4096))
            check_logits(report, program, directory, f"{family}: a sliding window that is longer than any text", work, model)

        case("window", window)


def check_text(report, program, material, work):
    """A directory of theirs with the tokenizer: greedy tokens, and more training from it."""
    for family, ours in (("mixtral", MIXTRAL), ("llama", LLAMA), ("olmoe", OLMOE)):

        def body():
            directory = Path(work) / f"{family}-text"
            tokenizer, vocabulary = material.tokenizer("bpe")
            model = make_model(family, seed=40, vocab_size=vocabulary)
            model.save_pretrained(directory, max_shard_size="200KB")
            shutil.copy(tokenizer, directory / "tokenizer.model")
            # tokenizer.json of a checkpoint with the same tokenizer, beside it; the program itself must not need it.
            beside = train(program, material, work, f"{family}-tokenizer-only", ours, "", "f32", 1, "bpe")
            theirs = AutoTokenizer.from_pretrained(beside)
            for prompt in [prompt for prompt in PROMPTS if prompt]:
                ids = theirs(prompt)["input_ids"]
                expected = prompt.encode() + bytes_of(beside, greedy(model, ids)) + b"\n"
                options = ["--tokens", 16, "--temperature", 0, "--no-start", "--set", "run.precision=f32"]
                written = program("generate", "--checkpoint", directory, "--prompt", prompt, *options)
                details = "" if written == expected else f"{written!r} and {expected!r}"
                report.check(written == expected, f"{family}: 16 greedy tokens after {prompt!r}", details)
            # Not one step's worth of change: a rate of zero writes their weights back.
            config, run = Path(work) / f"{family}-tune.textproto", Path(work) / f"{family}-tune"
            config.write_text(
                f'run {{ steps: 1 precision: f32 }}\ndata {{ train: "{material.tokens("bpe")}" tokenizer: "{tokenizer}" length: 32 global_batch: 2 }}\n'
                f'init {{ checkpoint: "{directory}" }}\noptimizer {{ peak_rate: 1e-12 final_rate: 1e-12 }}\n'
            )
            program("train", "--config", config, "--run-dir", run)
            back = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
            again = AutoModelForCausalLM.from_pretrained(back, dtype=torch.float32).eval()
            ids = some_ids(vocabulary)
            report.close(their_logits(again, ids), their_logits(model, ids), BOUND, f"{family}: theirs, through a step of rate 0, back there")

        report.guarded(f"{family}: text", body)


def check_theirs(report, program, work):
    for family in CLASSES:
        check_family(report, program, family, work)
    check_text(report, program, Material(program, work), work)
