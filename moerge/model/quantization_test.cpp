#include "moerge/model/quantization.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/model/model.h"
#include "moerge/tensor/convert.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;
using testing::TinyTensor;

constexpr const char* kUp = "model.layers.0.mlp.up_proj.weight";  // [12, 8]
constexpr const char* kFp8 = R"({"quant_method": "fp8", "weight_block_size": [5, 3]})";

class Quantised : public ::testing::Test {
 protected:
  // 1.0 has the bits 0x38.
  Quantised() : tensors_(testing::tiny_tensors(1)) {
    set({kUp, "F8_E4M3", {12, 8}, std::string(96, '\x38')});
  }

  void set(const TinyTensor& tensor) {
    std::erase_if(tensors_, [&](const TinyTensor& old) { return old.name == tensor.name; });
    tensors_.push_back(tensor);
  }
  void set_scale(std::vector<int64_t> shape, const std::vector<float>& scales,
                 const char* suffix = "_scale_inv") {
    std::string bytes(scales.size() * 4, '\0');
    std::memcpy(bytes.data(), scales.data(), bytes.size());
    set({std::string(kUp) + suffix, "F32", std::move(shape), bytes});
  }
  Model open(const std::string& quantization, const std::string& dtype = "bfloat16") {
    testing::write_tiny_model(dir_, "m", 1);
    Json config = parse_json(testing::kTinyConfig, "config");
    config["quantization_config"] = parse_json(quantization, "quantization");
    config["torch_dtype"] = dtype;
    dir_.write("m/config.json", config.dump());
    dir_.write("m/model.safetensors", testing::safetensors_bytes(tensors_));
    return Model("m", {.path = dir_ / "m"});
  }
  std::string message_of(const std::string& quantization) {
    try {
      open(quantization);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  static std::vector<float> rows_of(const StoredTensor& tensor, int64_t first, int64_t count) {
    std::vector<std::byte> bytes(static_cast<size_t>(count * tensor.row_bytes()));
    std::vector<float> values(static_cast<size_t>(count * tensor.row_elements()));
    read_rows(tensor, first, count, bytes);
    to_f32(tensor.spec.dtype, bytes, values);
    return values;
  }

  TempDir dir_;
  std::vector<TinyTensor> tensors_;
};

TEST_F(Quantised, BlocksAtTheEdgesAreSmaller) {
  set_scale({3, 3}, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  const Model model = open(kFp8);
  const StoredTensor& up = model.checkpoint.at(kUp);
  EXPECT_EQ(up.spec.dtype, DType::bf16);
  for (int64_t row = 0; row < 12; row++) {
    const std::vector<float> values = rows_of(up, row, 1);
    for (size_t c = 0; c < 8; c++)
      EXPECT_EQ(values[c], static_cast<float>(row / 5 * 3 + static_cast<int64_t>(c) / 3 + 1))
          << row << " " << c;
  }
  EXPECT_EQ(rows_of(up, 4, 2)[8 + 7], 6.0f);
  EXPECT_EQ(model.checkpoint.find(std::string(kUp) + "_scale_inv"), nullptr);
  EXPECT_FALSE(model.config.raw.contains("quantization_config"));
  EXPECT_TRUE(check_weights(*model.architecture, model.config, model.checkpoint).errors.empty());
}

TEST_F(Quantised, OneScaleOrOneARow) {
  set_scale({}, {0.5});
  EXPECT_EQ(rows_of(open(kFp8).checkpoint.at(kUp), 0, 12), std::vector<float>(96, 0.5f));
  set_scale({1}, {0.25});
  EXPECT_EQ(rows_of(open(kFp8).checkpoint.at(kUp), 0, 12), std::vector<float>(96, 0.25f));
  std::vector<float> scales(12);
  for (size_t i = 0; i < 12; i++) scales[i] = static_cast<float>(i);
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{12}, std::vector<int64_t>{12, 1}}) {
    set_scale(shape, scales);
    EXPECT_EQ(rows_of(open(kFp8).checkpoint.at(kUp), 7, 1), std::vector<float>(8, 7.0f));
  }
}

TEST_F(Quantised, TheModelsTypeComesOut) {
  set_scale({}, {1});
  EXPECT_EQ(open(kFp8, "float16").checkpoint.at(kUp).spec.dtype, DType::f16);
  EXPECT_EQ(open(kFp8, "float8_e4m3fn").checkpoint.at(kUp).spec.dtype, DType::bf16);
}

TEST_F(Quantised, IntegersWithZeroPoints) {
  constexpr const char* kInt = R"({"quant_method": "compressed-tensors", "format": "int-quantized"})";
  set({kUp, "I8", {12, 8}, std::string(96, '\x80')});  // -128
  set_scale({12, 1}, std::vector<float>(12, 0.5f), "_scale");
  set({std::string(kUp) + "_zero_point", "I8", {12, 1}, std::string(12, '\x02')});
  EXPECT_EQ(rows_of(open(kInt).checkpoint.at(kUp), 3, 2), std::vector<float>(16, -65.0f));
}

TEST_F(Quantised, RefusesWhatItWouldMisread) {
  EXPECT_NE(message_of(kFp8).find("there is neither"), std::string::npos);
  set_scale({2, 3}, std::vector<float>(6, 1));
  EXPECT_NE(message_of(kFp8).find("or one for 5 x 3"), std::string::npos);
  set({kUp, "I8", {12, 8}, std::string(96, 'x')});
  EXPECT_NE(message_of(kFp8).find("int8 [12, 8]"), std::string::npos);
  for (const char* block : {"[0, 1]", "[1.5, 1]", "\"big\"", "[1]", "[-1, 2]", "[1e30, 1]"})
    EXPECT_NE(message_of(std::string(R"({"quant_method": "fp8", "weight_block_size": )") + block + "}")
                  .find("a quantisation block is"),
              std::string::npos)
        << block;
  EXPECT_NE(message_of("[]").find("does not name"), std::string::npos);
}

}  // namespace
}  // namespace moerge
