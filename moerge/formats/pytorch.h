#pragma once
// Weights as torch.save writes them since version 1.6: a zip archive, nothing in it compressed, of a pickle
// ARCHIVE/data.pkl and the bytes of every storage, ARCHIVE/data/KEY. The pickle calls functions that make
// tensors of the storages; here the calls are looked at, and none is made.

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "moerge/formats/weight_files.h"

namespace moerge {

/// The tensors of a state dict, by place in the file: a dict of names and tensors, or a dict without tensors
/// whose "state_dict" is one. Tensors may share their bytes (tied embeddings). Left out, because they are no
/// weights: None, truth values, numbers, texts, dtypes, torch.Size and empty lists and dicts. Everything is
/// checked: types known, sizes and strides those of a contiguous tensor inside its storage, no name twice, no
/// function but those that make tensors. `where` starts every message. Throws input for what is damaged or
/// asks for another function, unsupported for other formats (before torch 1.6, TorchScript, big-endian),
/// other kinds of tensors, and dicts that hold no tensors themselves.
std::vector<WeightEntry> parse_pytorch(std::span<const std::byte> file, const std::string& where);

}  // namespace moerge
