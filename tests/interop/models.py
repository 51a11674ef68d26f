"""Tiny models of transformers, and the logits that both sides give."""

import json
from pathlib import Path

import numpy
import torch
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM

VOCABULARY, POSITIONS = 300, 64
# Two routed experts a token, grouped queries, a head width that is not width / heads; sizes that are no multiples of 16.
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 56,
    "max_position_embeddings": POSITIONS,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
# What a family has beside, and instead of, the common sizes.
EXTRA = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02, "sliding_window": None},
    "llama": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False, "router_aux_loss_coef": 0.01, "head_dim": 10, "pad_token_id": None},
}
CLASSES = {
    "mixtral": (MixtralConfig, MixtralForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "olmoe": (OlmoeConfig, OlmoeForCausalLM),
}
MIXTURES = ("mixtral", "olmoe")


def make_model(family, seed=1, theta=50000.0, **changes):
    """A model of the family in f32 with weights that depend on the seed; uneven ones, so that an error would show."""
    sizes = {**SIZES, **EXTRA[family], "rope_parameters": {"rope_type": "default", "rope_theta": theta}, **changes}
    kind, make = CLASSES[family]
    model = make(kind(**sizes)).float().eval()
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=source)
            parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.2 * noise)
    return model


def some_ids(vocabulary, sequences=3, length=24, seed=5):
    return torch.randint(0, vocabulary, (sequences, length), generator=torch.Generator().manual_seed(seed))


def their_logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float().numpy().astype(numpy.float64)


def write_ids(ids, path):
    save_file({"input_ids": ids.numpy().astype(numpy.int64)}, str(path))


def our_logits(program, directory, ids, work, ranks=1):
    """What `switchyard eval` writes, in f32."""
    given, written = Path(work) / "ids.safetensors", Path(work) / "logits.safetensors"
    write_ids(ids, given)
    written.unlink(missing_ok=True)
    program("eval", "--checkpoint", directory, "--ids", given, "--logits", written, "--set", "run.precision=f32", ranks=ranks)
    return load_file(str(written))["logits"].astype(numpy.float64)


def greedy(model, ids, count=16):
    """The ids that `model` adds to `ids` when it always takes the likeliest."""
    given = torch.tensor([ids])
    out = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=count, pad_token_id=model.config.eos_token_id
    )
    return out[0, len(ids) :].tolist()


def bytes_of(directory, ids):
    """The bytes that ids of a lossless tokenizer stand for, which a decoder into text would repair."""
    file = json.loads((Path(directory) / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["id"] for token in file["added_tokens"] if token["special"]}
    vocabulary = file["model"]["vocab"]  # a list of names with scores where the model is a unigram
    names = {id: name for name, id in vocabulary.items()} if isinstance(vocabulary, dict) else [name for name, _ in vocabulary]
    parts = []
    for id in ids:
        name = names[id]
        if id in special:
            continue
        byte = len(name) == 6 and name.startswith("<0x") and name.endswith(">")
        parts.append(bytes([int(name[3:5], 16)]) if byte else name.encode())
    return b"".join(parts)
