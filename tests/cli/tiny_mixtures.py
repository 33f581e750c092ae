"""Tiny mixtures of every family, in each layout, as folders and as GGUF files; and dense models of the families beside Llama.

    model = tiny_mixture("mix", "qwen2_moe", experts=3)   # one tensor an expert and matrix
    stack(model)                                          # the same, all experts of a layer in two tensors
    mixture_gguf(model, "q8_0").write(path)               # as llama.cpp's converter would write it
"""
from tiny_gguf import BOOL, F32, NAMES, STRING, U32, Gguf, encode, rotary_rows, tiny_gguf
from tiny_models import CONFIG, Tensor, random_tensor, tensor, tiny_model

FAMILIES = {
    "mixtral": dict(dense="mistral", cls="MixtralForCausalLM", arch="llama", experts="num_local_experts", ffn="intermediate_size",
                    router="block_sparse_moe.gate", names=("w1", "w3", "w2"), expert="block_sparse_moe.experts.{}.{}",
                    more=dict(sliding_window=None, router_aux_loss_coef=0.02, output_router_logits=False)),
    "qwen2_moe": dict(dense="qwen2", cls="Qwen2MoeForCausalLM", arch="qwen2moe", experts="num_experts", ffn="moe_intermediate_size",
                      router="mlp.gate", names=("gate_proj", "up_proj", "down_proj"), expert="mlp.experts.{}.{}",
                      more=dict(shared_expert_intermediate_size=96, norm_topk_prob=False, decoder_sparse_step=1)),
    "qwen3_moe": dict(dense="qwen3", cls="Qwen3MoeForCausalLM", arch="qwen3moe", experts="num_experts", ffn="moe_intermediate_size",
                      router="mlp.gate", names=("gate_proj", "up_proj", "down_proj"), expert="mlp.experts.{}.{}",
                      more=dict(norm_topk_prob=True, head_dim=16, mlp_only_layers=[])),
    "deepseek": dict(dense="llama", cls="DeepseekForCausalLM", arch="deepseek", experts="n_routed_experts",
                     ffn="moe_intermediate_size", router="mlp.gate", names=("gate_proj", "up_proj", "down_proj"),
                     expert="mlp.experts.{}.{}", more=dict(n_shared_experts=2, first_k_dense_replace=0, norm_topk_prob=False)),
}
CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def add_attention(model, name, family, dtype):
    """What Qwen has beside Llama: biases, or norms of the heads."""
    config = model.config
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    rows = {"q": config["num_attention_heads"] * head, "k": config["num_key_value_heads"] * head}
    rows["v"] = rows["k"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.self_attn."
        if family.startswith("qwen2"):
            for letter, size in rows.items():
                model.tensors[f"{prefix}{letter}_proj.bias"] = random_tensor(f"{name}{layer}{letter}", [size], dtype)
        if family.startswith("qwen3"):
            for letter in "qk":
                model.tensors[f"{prefix}{letter}_norm.weight"] = random_tensor(f"{name}{layer}{letter}n", [head], dtype)
    return model


def tiny_dense(name, family, dtype="BF16", **changes):
    """A dense model whose FFN fits tiny_mixture()'s experts."""
    more = {"qwen3": dict(head_dim=16)}.get(family, {})
    config = {"intermediate_size": 64, **more, "model_type": family, "architectures": [CLASSES[family]], **changes}
    return add_attention(tiny_model(name, dtype, **config), name, family, dtype)


def tiny_mixture(name, family="mixtral", experts=3, dtype="BF16", **changes):
    row = FAMILIES[family]
    ffn = changes.pop("expert_ffn", 64)
    config = {"intermediate_size": ffn if family == "mixtral" else 80, "model_type": family, "architectures": [row["cls"]],
              "num_experts_per_tok": 2, row["experts"]: experts, **row["more"], **changes}
    model = tiny_model(name, dtype, **config)
    if family != "mixtral":
        model.config["moe_intermediate_size"] = ffn
    config, hidden = model.config, model.config["hidden_size"]

    def add(weight, shape):
        model.tensors[weight] = random_tensor(name + weight, shape, dtype)

    for weight in [w for w in model.tensors if ".mlp." in w]:
        del model.tensors[weight]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        add(f"{prefix}{row['router']}.weight", [experts, hidden])
        for e in range(experts):
            for matrix, shape in zip(row["names"], ([ffn, hidden], [ffn, hidden], [hidden, ffn])):
                add(f"{prefix}{row['expert'].format(e, matrix)}.weight", shape)
        wide = {"qwen2_moe": 96, "deepseek": 2 * ffn}.get(family)
        shared = {"qwen2_moe": "shared_expert", "deepseek": "shared_experts"}.get(family)
        if shared:
            for matrix, shape in {"gate": [wide, hidden], "up": [wide, hidden], "down": [hidden, wide]}.items():
                add(f"{prefix}mlp.{shared}.{matrix}_proj.weight", shape)
        if family == "qwen2_moe":
            add(f"{prefix}mlp.shared_expert_gate.weight", [1, hidden])
    return add_attention(model, name, family, dtype)


def expert_names(family, layer, expert):
    """Names of gate, up and down."""
    row = FAMILIES[family]
    return [f"model.layers.{layer}.{row['expert'].format(expert, matrix)}.weight" for matrix in row["names"]]


def router_name(family, layer):
    return f"model.layers.{layer}.{FAMILIES[family]['router']}.weight"


def layout_of_stacks(model):
    """[(stack's name, [tensors in their order], shape)]; the parts are taken out of the model."""
    family, config = model.config["model_type"], model.config
    experts, stacks = config[FAMILIES[family]["experts"]], []
    for layer in range(config["num_hidden_layers"]):
        names = [expert_names(family, layer, e) for e in range(experts)]
        parts = [[model.tensors.pop(name) for name in of_expert] for of_expert in names]
        stacks.append((layer, parts))
    return experts, stacks


def stack(model):
    """The layout of transformers 5 and the newest mergekit, in place."""
    family = model.config["model_type"]
    experts, layers = layout_of_stacks(model)
    for layer, parts in layers:
        (ffn, hidden), dtype = parts[0][0].shape, parts[0][0].dtype
        prefix = f"model.layers.{layer}.mlp.experts."
        model.tensors[prefix + "gate_up_proj"] = Tensor(
            dtype, [experts, 2 * ffn, hidden], b"".join(gate.data + up.data for gate, up, _ in parts))
        model.tensors[prefix + "down_proj"] = Tensor(dtype, [experts, hidden, ffn], b"".join(down.data for *_, down in parts))
        model.tensors[f"model.layers.{layer}.mlp.gate.weight"] = model.tensors.pop(router_name(family, layer))
    return model


MIXTURE_NAMES = {
    "block_sparse_moe.gate.": "ffn_gate_inp.", "mlp.shared_expert_gate.": "ffn_gate_inp_shexp.", "mlp.gate.": "ffn_gate_inp.",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


def other_gguf(model, kind, arch):
    """tiny_gguf() for families that are not Llama: their own name, and rows of q and k as they are."""
    rotary = arch in ("llama", "deepseek")
    plain = tiny_gguf(type(model)(model.config, {}, {}), kind)
    metadata = {key.replace("llama.", arch + "."): value for key, value in plain.metadata.items()}
    metadata["general.architecture"] = (STRING, arch)
    tensors = {}
    for name, values in model.tensors.items():
        short = name
        for ours, theirs in {**MIXTURE_NAMES, **NAMES}.items():
            short = short.replace(ours, theirs)
        dtype, data = encode(values, "f32" if "ffn_gate_inp" in short else kind)
        if rotary and ("attn_q.weight" in short or "attn_k.weight" in short):
            heads = model.config["num_attention_heads" if "attn_q." in short else "num_key_value_heads"]
            data = rotary_rows(data, values.shape[0], heads)
        shape = values.shape[1:] if "ffn_gate_inp_shexp" in short else values.shape
        tensors[short] = [dtype, shape, data]
    return Gguf(metadata, tensors)


def dense_gguf(model, kind="bf16"):
    return other_gguf(model, kind, ARCHITECTURES[model.config["model_type"]])


def mixture_gguf(model, kind="bf16", per_expert=False):
    """`per_expert`: the layout of early 2024."""
    family, config = model.config["model_type"], model.config
    arch = FAMILIES[family]["arch"]
    copy = type(model)(config, dict(model.tensors), {})
    experts, layers = layout_of_stacks(copy)
    gguf = other_gguf(copy, kind, arch)
    for layer, parts in layers:
        for i, name in enumerate(("gate", "up", "down")):
            encoded = [encode(of_expert[i], kind) for of_expert in parts]
            shape = parts[0][i].shape
            if per_expert:
                for e, (dtype, data) in enumerate(encoded):
                    gguf.tensors[f"blk.{layer}.ffn_{name}.{e}.weight"] = [dtype, shape, data]
            else:
                gguf.tensors[f"blk.{layer}.ffn_{name}_exps.weight"] = [
                    encoded[0][0], ([experts] if experts > 1 else []) + shape, b"".join(data for _, data in encoded)]
    gguf.metadata |= {f"{arch}.expert_count": (U32, experts), f"{arch}.expert_used_count": (U32, config["num_experts_per_tok"])}
    if family != "mixtral":
        gguf.metadata[f"{arch}.expert_feed_forward_length"] = (U32, config["moe_intermediate_size"])
    if family == "qwen2_moe":
        gguf.metadata[f"{arch}.expert_shared_feed_forward_length"] = (U32, config["shared_expert_intermediate_size"])
    if family == "deepseek":
        gguf.metadata |= {f"{arch}.expert_shared_count": (U32, config["n_shared_experts"]),
                          f"{arch}.leading_dense_block_count": (U32, 0), f"{arch}.expert_weights_scale": (F32, 1.0)}
    return gguf
