"""A directory that is not what it seems is refused: code 2, one sentence that names what is wrong."""

import json
import shutil
from pathlib import Path

import numpy
from models import make_model, some_ids, write_ids
from safetensors.numpy import load_file, save_file
from theirs_part import edit_json


def edit_weights(directory, change):
    path = Path(directory) / "model.safetensors"
    tensors = load_file(str(path))
    change(tensors)
    save_file(tensors, str(path), {"format": "pt"})


DOWN = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
NORM = "model.layers.0.input_layernorm.weight"


def set_config(**values):
    return lambda directory: edit_json(Path(directory) / "config.json", lambda config: config.update(values))


def drop(name):
    return lambda directory: edit_weights(directory, lambda tensors: tensors.pop(name))


def put(name, value):
    return lambda directory: edit_weights(directory, lambda tensors: tensors.update({name: value}))


def rewrite(name, change):
    def body(directory):
        path = Path(directory) / name
        path.write_bytes(change(path.read_bytes()))

    return body


# what, what is done to a good directory, words that the sentence must have
CASES = [
    ("an expert's tensor is missing", drop(DOWN), [DOWN]),
    ("a norm is missing", drop(NORM), [NORM]),
    ("the output is missing, and not tied", drop("lm_head.weight"), ["lm_head.weight"]),
    ("a tensor too many", put("model.layers.0.self_attn.q_proj.bias", numpy.zeros(48, numpy.float32)), ["model.layers.0.self_attn.q_proj.bias"]),
    ("an expert too many", put(DOWN.replace("experts.3", "experts.4"), numpy.zeros((40, 56), numpy.float32)), ["experts.4.w2.weight"]),
    ("a layer too many", put(NORM.replace("layers.0", "layers.2"), numpy.zeros(40, numpy.float32)), ["layers.2.input_layernorm.weight"]),
    ("a tensor of another shape", put(NORM, numpy.zeros(41, numpy.float32)), [NORM, "41", "40"]),
    ("a transposed tensor", put(DOWN, numpy.zeros((56, 40), numpy.float32)), [DOWN]),
    ("a tensor of whole numbers", put(NORM, numpy.zeros(40, numpy.int64)), [NORM]),
    ("a sliding window shorter than the length", set_config(sliding_window=8), ["sliding_window"]),
    ("another activation", set_config(hidden_act="gelu"), ["hidden_act", "gelu"]),
    ("rope scaling of version 4", set_config(rope_scaling={"type": "linear", "factor": 2.0}), ["rope_scaling"]),
    ("rope scaling of version 5", set_config(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}), ["yarn"]),
    ("a family that is not known", set_config(model_type="gpt2", architectures=["GPT2LMHeadModel"]), ["gpt2"]),
    ("more layers than the file has", set_config(num_hidden_layers=3), ["model.layers.2"]),
    ("another vocabulary", set_config(vocab_size=301), ["301", "300"]),
    ("a setting of another type", set_config(hidden_size="forty"), ["hidden_size"]),
    ("a negative size", set_config(num_hidden_layers=-1), ["layers", "-1"]),
    ("no heads", set_config(num_attention_heads=0), ["heads", "0"]),
    ("config.json is no JSON", rewrite("config.json", lambda text: text[:-5]), ["config.json"]),
    ("config.json is a list", rewrite("config.json", lambda text: b"[" + text + b"]"), ["config.json"]),
    ("no config.json", lambda directory: (Path(directory) / "config.json").unlink(), ["no checkpoint", "Hugging Face"]),
    ("no weights", lambda directory: (Path(directory) / "model.safetensors").unlink(), ["safetensors"]),
    ("weights cut off", rewrite("model.safetensors", lambda data: data[: len(data) // 2]), ["model.safetensors"]),
    ("a header longer than the file", rewrite("model.safetensors", lambda data: (2**40).to_bytes(8, "little") + data[8:]), ["model.safetensors"]),
    ("a header that is no JSON", rewrite("model.safetensors", lambda data: data[:8] + b"!" + data[9:]), ["model.safetensors"]),
]


def check_refusal(report, program, what, arguments, words):
    done = program.try_(*arguments)
    said = done.stderr.decode(errors="replace").strip()
    problem = ""
    if done.returncode != 2:
        problem = f"code {done.returncode}"
    elif len(said.splitlines()) != 1:
        problem = f"{len(said.splitlines())} lines"
    else:
        problem = ", ".join(f"{word!r} is not named" for word in words if word not in said)
    report.check(not problem, f"refused: {what}", f"{problem}: {said[:400]}" if problem else said[:160])


def check_refusals(report, program, work):
    good, ids, out = Path(work) / "good", Path(work) / "ids.safetensors", Path(work) / "out.safetensors"
    model = make_model("mixtral")
    model.save_pretrained(good)
    write_ids(some_ids(model.config.vocab_size), ids)

    def arguments(directory):
        return ["eval", "--checkpoint", directory, "--ids", ids, "--logits", out]

    if not report.check(program.try_(*arguments(good)).returncode == 0, "the directory that the refused ones are made of is accepted"):
        return
    for number, (what, change, words) in enumerate(CASES):
        directory = Path(work) / f"bad-{number}"
        shutil.copytree(good, directory)
        change(directory)
        check_refusal(report, program, what, arguments(directory), words)
        shutil.rmtree(directory)

    shards = Path(work) / "shards"
    model.save_pretrained(shards, max_shard_size="60KB")
    index = shards / "model.safetensors.index.json"
    kept = index.read_text()
    some = json.loads(kept)["weight_map"][DOWN]

    def with_index(what, change, words):
        edit_json(index, change)
        check_refusal(report, program, what, arguments(shards), words)
        index.write_text(kept)

    with_index("the index names a file that is not there", lambda text: text["weight_map"].update({DOWN: "other.safetensors"}), ["other.safetensors"])
    with_index("the index names a file outside of the directory", lambda text: text["weight_map"].update({DOWN: "../good/model.safetensors"}), ["../good"])
    with_index("the index leaves a tensor out", lambda text: text["weight_map"].pop(DOWN), [DOWN])
    with_index("the index has no weight_map", lambda text: text.pop("weight_map"), ["weight_map"])
    (shards / some).unlink()
    check_refusal(report, program, "a shard is missing", arguments(shards), [some])

    (good / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    generate = ["generate", "--checkpoint", good, "--prompt", "a"]
    check_refusal(report, program, "a directory that has only tokenizer.json generates text", generate, ["tokenizer.model", "tokenizer.json"])
    report.check(program.try_(*arguments(good)).returncode == 0, "and its logits need no tokenizer")
    (good / "tokenizer.model").write_bytes(b"not a model")
    check_refusal(report, program, "tokenizer.model is no model", generate, ["tokenizer.model"])
