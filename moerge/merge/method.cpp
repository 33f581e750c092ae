#include "moerge/merge/method.h"

#include <array>
#include <stdexcept>

#include "moerge/merge/methods/list.h"

namespace moerge {
namespace {

constexpr std::array kMethods = {
    &kLinear,     &kSlerp,      &kNuslerp,     &kMultislerp,  &kKarcher,     &kTaskArithmetic,  &kTies,
    &kDareTies,   &kDareLinear, &kDella,       &kDellaLinear, &kBreadcrumbs, &kBreadcrumbsTies, &kSce,
    &kModelStock, &kNearswap,   &kArceeFusion, &kRam,         &kRamPlusTl,   &kPassthrough};

}  // namespace

int64_t MergeJob::elements() const { return element_count(shape); }

int64_t MergeJob::columns() const { return rows() == 0 ? 0 : elements() / rows(); }

std::vector<size_t> MergeJob::without_base() const {
  std::vector<size_t> out;
  for (size_t i = 0; i < inputs; i++)
    if (i != base) out.push_back(i);
  return out;
}

double MergeJob::value(std::string_view parameter, size_t input) const {
  for (size_t i = 0; i < method->parameters.size(); i++)
    if (method->parameters[i].name == parameter)
      return values[i][method->parameters[i].scope == ParameterSpec::Scope::tensor ? 0 : input];
  throw std::logic_error("no such parameter: " + std::string(parameter));
}

std::span<const MergeMethod* const> merge_methods() { return kMethods; }

const MergeMethod* find_merge_method(std::string_view name) {
  for (const MergeMethod* method : kMethods)
    if (method->name == name) return method;
  return nullptr;
}

}  // namespace moerge
