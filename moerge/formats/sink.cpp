#include "moerge/formats/sink.h"

#include <algorithm>
#include <cstring>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"

namespace moerge {

void ComparingSink::begin(std::span<const TensorSpec> specs) {
  for (const TensorSpec& spec : specs) {
    const StoredTensor& stored = written_.at(spec.name);
    if (stored.spec.dtype != spec.dtype || stored.spec.shape != spec.shape)
      fail(ErrorKind::input, "{}: \"{}\" is {} {}, expected {} {}", written_.path().string(), spec.name,
           info(stored.spec.dtype).name(), to_string(stored.spec.shape), info(spec.dtype).name(),
           to_string(spec.shape));
    tensors_.push_back(&stored);
  }
}

void ComparingSink::put(size_t i, int64_t offset, std::span<const std::byte> bytes) {
  const std::span<const std::byte> found =
      tensors_[i]->view().bytes.subspan(static_cast<size_t>(offset), bytes.size());
  if (std::memcmp(found.data(), bytes.data(), bytes.size()) != 0)
    fail(ErrorKind::input, "{}: \"{}\" differs from what it was made of", written_.path().string(),
         tensors_[i]->spec.name);
  tensors_[i]->file->release(found);
}

void ComparingSink::copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
                         int64_t count) {
  constexpr int64_t kStep = 16 << 20;  // keeps little of both files resident
  for (int64_t done = 0; done < count; done += kStep) {
    check_interrupted();
    const auto part = source.bytes().subspan(static_cast<size_t>(source_offset + done),
                                             static_cast<size_t>(std::min(kStep, count - done)));
    put(i, offset + done, part);
    source.release(part);
  }
}

void ComparingSink::finish() {
  if (written_.tensors().size() != tensors_.size())
    fail(ErrorKind::input, "{}: {} tensors, expected {}", written_.path().string(), written_.tensors().size(),
         tensors_.size());
}

}  // namespace moerge
