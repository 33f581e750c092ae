"""Checkpoints of 8-bit weights with scales: the values they stand for, and what is refused."""
import copy, math, random, struct

from harness import rows
from test_gguf import GgufFile, model as mergeable_model
from tiny_models import Tensor, pack, tensor, tiny_model, zeros

QUANTISED = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "gate_proj.weight", "up_proj.weight",
             "down_proj.weight")


def e4m3(byte):
    """4 bits of exponent (bias 7), 3 of fraction."""
    sign, exponent, fraction = (-1 if byte & 128 else 1), byte >> 3 & 15, byte & 7
    return sign * (math.ldexp(8 + fraction, exponent - 10) if exponent else math.ldexp(fraction, -9))


def e5m2(byte):
    return struct.unpack("<e", bytes([0, byte]))[0]


def int8(byte):
    return byte - 256 if byte > 127 else byte


def bytes_of(seed, count, finite=0x78):
    """Bytes that are finite numbers in either 8-bit float."""
    source = random.Random(seed)
    return bytes(source.randrange(finite) | source.randrange(2) << 7 for _ in range(count))


def quantised(name, config, dtype, value, grid, suffix="_scale", zero=None, make=tiny_model):
    """The model with 8-bit weights, and what it stands for. `grid`: (rows, columns) -> rows, columns of a block."""
    model, plain = make(name), make(name)
    model.config["quantization_config"] = copy.deepcopy(config)  # tests change their own
    for weight in [w for w in model.tensors if w.endswith(QUANTISED)]:
        r, c = model.tensors[weight].shape
        block_r, block_c = grid(r, c)
        scale_r, scale_c = -(-r // block_r), -(-c // block_c)
        data = bytes_of(name + weight, r * c)
        source = random.Random(weight)
        scales = [source.randrange(1, 64) / 4096 for _ in range(scale_r * scale_c)]
        zeros_ = [source.randrange(-20, 20) if zero else 0 for _ in scales]
        at = lambda i: i // c // block_r * scale_c + i % c // block_c
        values = [(value(byte) - zeros_[at(i)]) * scales[at(i)] for i, byte in enumerate(data)]
        model.tensors[weight] = Tensor(dtype, [r, c], data)
        model.tensors[weight + suffix] = tensor("F32", [scale_r, scale_c], scales)
        if zero:
            model.tensors[weight + "_zero_point"] = Tensor("I8", [scale_r, scale_c], bytes(z & 255 for z in zeros_))
        model.tensors[weight.replace("weight", "input_scale")] = tensor("F32", [1], [0.5])
        plain.tensors[weight] = Tensor("BF16", [r, c], pack("BF16", values))
    return model, plain


def compressed(format, **weights):
    return {"quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, **weights}}}}


WHOLE = lambda r, c: (r, c)
ROW = lambda r, c: (1, c)
METHODS = {
    "fp8 in blocks": ({"quant_method": "fp8", "weight_block_size": [20, 24]}, "F8_E4M3", e4m3, lambda r, c: (20, 24), "_scale_inv"),
    "fp8 in blocks of 128": ({"quant_method": "fp8"}, "F8_E4M3", e4m3, lambda r, c: (128, 128), "_scale_inv"),
    "fp8, one scale": ({"quant_method": "fp8", "activation_scheme": "static"}, "F8_E4M3", e4m3, WHOLE),
    "fp8, the wider kind": ({"quant_method": "fp8", "weight_block_size": [16, 16]}, "F8_E5M2", e5m2, lambda r, c: (16, 16), "_scale_inv"),
    "fbgemm": ({"quant_method": "fbgemm_fp8"}, "F8_E4M3", e4m3, ROW),
    "compressed floats": (compressed("float-quantized", type="float", strategy="channel"), "F8_E4M3", e4m3, ROW),
    "compressed integers": (compressed("int-quantized", type="int", strategy="channel"), "I8", int8, ROW),
    "integers in groups": (compressed("naive-quantized", type="int", strategy="group", group_size=16), "I8", int8, lambda r, c: (1, 16)),
    "integers with zero points": (compressed("int-quantized", type="int", symmetric=False), "I8", int8, ROW, "_scale", True),
}


@rows({name: (name, mode) for name in METHODS for mode in (["hidden"] if name == "fp8 in blocks" else ["random"])})
def test_result_of_the_dequantised_models(case, method, mode):
    for name in ("base", "one"):
        model, plain = quantised(name, *METHODS[method])
        case.model(name, model)
        case.model(f"plain/{name}", plain)
    case.yaml(gate_mode=mode)
    ours = case.built("--verify")
    case.yaml(gate_mode=mode, file="plain.yaml",
              text=case.path("moe.yaml").read_text().replace("base_model: base", "base_model: plain/base").replace(": one", ": plain/one"))
    plain = case.built(config="plain.yaml", out="out2")
    assert ours.tensors == plain.tensors
    assert ours.config == plain.config and "quantization_config" not in ours.config


def test_dry_run_says_what_is_scaled(case):
    case.model("one", quantised("one", *METHODS["fp8 in blocks"])[0])
    case.moe("--dry-run", "-v").exits(0).prints("model.layers.0.mlp.up_proj.weight (float8_e4m3fn, scaled)")


def test_gguf(case):
    model, plain = quantised("one", *METHODS["fp8 in blocks"], make=mergeable_model)
    case.model("one", model)
    case.model("plain/one", plain)
    case.run("gguf", "one", "a", "--type", "q8_0").exits(0)
    case.run("gguf", "plain/one", "b", "--type", "q8_0").exits(0)
    assert case.path("a/one.Q8_0.gguf").read_bytes() == case.path("b/one.Q8_0.gguf").read_bytes()


# ---------------------------------------------------------------------------------------------------------------- refusals

ADVICE = "which is not read: use the model that they were made from, or a GGUF file of it"


@rows({
    **{method: ({"quant_method": method}, f"the weights are quantised ({method}), {ADVICE}")
       for method in ("gptq", "awq", "bitsandbytes", "hqq", "aqlm", "eetq", "quanto", "torchao", "mxfp4", "bitnet")},
    **{format: (compressed(format), f"the weights are quantised (compressed-tensors, format {format}), {ADVICE}")
       for format in ("pack-quantized", "nvfp4-pack-quantized", "mxfp4-pack-quantized", "marlin-24", "mixed-precision")},
    "a group's format": ({**compressed("float-quantized"), "config_groups": {"g": {"format": "pack-quantized"}}},
                         "(compressed-tensors, format pack-quantized)"),
    "sparse": ({**compressed("float-quantized"), "sparsity_config": {"format": "sparse-24-bitmask"}},
               "(compressed-tensors, sparsity_config sparse-24-bitmask)"),
    "rotated": ({**compressed("int-quantized"), "transform_config": {"config_groups": {"R1": {}}}}, "(compressed-tensors, transform_config)"),
    "unnamed": ({}, "the weights are quantised (in a way that it does not name)"),
})
def test_method_that_is_not_read(case, config, sentence):
    case.model("base", tiny_model("base", quantization_config=config))
    case.refused(2, f"{case.path('base')}/config.json: the weights are quantised (", sentence)


UP = "model.layers.0.mlp.up_proj.weight"


def change(name, value):
    return lambda model: model.tensors.__setitem__(name, value) if value else model.tensors.pop(name)


@rows({
    "no scale": (change(UP + "_scale_inv", None), 1, f'"{UP}" is float8_e4m3fn, and there is neither "{UP}_scale"'),
    "scale of another shape": (change(UP + "_scale_inv", zeros("F32", [2, 3])), 1,
                               f'"{UP}_scale_inv" is [2, 3], and the weight is [48, 32]; expected one scale, one a row, or one for 20 x 24'),
    "scale of bytes": (change(UP + "_scale_inv", zeros("U8", [3, 2])), 2, f'"{UP}_scale_inv" is uint8'),
    "pairs in int8": (change(UP, zeros("I8", [48, 32])), 2, f'"{UP}" int8 [48, 32]'),
    "columns in another order": (change(UP.replace("weight", "weight_g_idx"), zeros("I64", [32])), 2, "columns in another order"),
    "zero points of another shape": (change(UP + "_zero_point", zeros("I8", [3])), 1, f'"{UP}_zero_point" is [3], and'),
    "block of nothing": (lambda model: model.config["quantization_config"].update(weight_block_size=[0, 128]), 1, "a quantisation block is 0"),
    "block of one number": (lambda model: model.config["quantization_config"].update(weight_block_size=[128]), 1, "expected [rows, columns]"),
})
def test_weights_that_do_not_fit(case, spoil, code, sentence):
    model, _ = quantised("base", *METHODS["fp8 in blocks"])
    spoil(model)
    case.model("base", model)
    case.refused(code, f"{case.path('base')}", sentence)
