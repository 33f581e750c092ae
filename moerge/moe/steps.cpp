#include "moerge/moe/steps.h"

#include <fmt/format.h>

namespace moerge {
namespace {

constexpr Role kFfn[] = {Role::ffn_gate, Role::ffn_up, Role::ffn_down};

// What fills a role of the shared expert.
Role in_source(Role role) {
  return role == Role::shared_ffn_gate ? Role::ffn_gate
         : role == Role::shared_ffn_up ? Role::ffn_up
                                       : Role::ffn_down;
}

bool is_bias(Role role) {
  return role == Role::q_bias || role == Role::k_bias || role == Role::v_bias || role == Role::o_bias;
}

class Steps {
 public:
  explicit Steps(MoePlan& moe)
      : moe_(moe),
        base_(*moe.models.base),
        family_(*moe.output->architecture),
        stacked_(family_.mixture->stacked) {}

  void add_all() {
    add_of_base(Role::embedding, -1);
    for (int64_t layer = 0; layer < base_.config.layers; layer++)
      for (const WeightTemplate& weight : family_.weights)
        if (is_per_layer(weight.role)) add_role(weight, layer);
    add_of_base(Role::output_norm, -1);
    add_of_base(Role::output, -1);
  }

 private:
  bool fused() const { return moe_.layout == Layout::fused; }
  int64_t experts() const { return std::ssize(moe_.models.experts); }

  void add_role(const WeightTemplate& weight, int64_t layer) {
    switch (weight.role) {
      case Role::router:
        return add_router(fused() ? fill_name(stacked_.router, layer) : weight_name(weight, layer), layer, 0,
                          experts());
      case Role::shared_router:
        return add_router(weight_name(weight, layer), layer, experts(),
                          std::ssize(moe_.models.shared_experts));
      case Role::ffn_gate:  // the first of three, which are planned together
        return fused() ? add_stacked(layer) : add_experts(layer);
      case Role::shared_ffn_gate:
        if (!moe_.models.shared_experts.empty()) add_shared_expert(layer);
        return;
      case Role::ffn_up:
      case Role::ffn_down:
      case Role::shared_ffn_up:
      case Role::shared_ffn_down:
      case Role::ignored:
        return;
      default:
        return add_of_base(weight.role, layer);
    }
  }

  void add(std::string name, Shape shape, std::vector<Part> parts) {
    moe_.plan.steps.push_back({{std::move(name), moe_.dtype, std::move(shape)}, Concat{std::move(parts)}});
  }

  void add_of_base(Role role, int64_t layer) {
    const WeightTemplate& weight = weight_for(family_, role);
    const WeightTemplate* theirs = find_weight(*base_.architecture, role);
    const StoredTensor* source = theirs ? base_.checkpoint.find(weight_name(*theirs, layer)) : nullptr;
    if (source)
      add(weight_name(weight, layer), source->spec.shape,
          {{.source = source, .group = kBaseGroup, .noise_stream = {}}});
    else if (is_bias(role) && (!weight.required || weight.required(base_.config)))
      add_zeros(weight_name(weight, layer), expected_shape(role, base_.config));
  }

  void add_zeros(std::string name, Shape shape) {
    const TensorSpec spec = {std::move(name), moe_.dtype, std::move(shape)};
    const auto size = static_cast<size_t>(spec.elements());
    moe_.plan.steps.push_back(
        {spec, Fill{"zeros: the base has no such bias", [size] { return std::vector<float>(size); }}});
  }

  void add_router(std::string name, int64_t layer, int64_t first, int64_t rows) {
    const int64_t hidden = base_.config.hidden;
    const auto compute = [gates = moe_.gates, layer, first, rows, hidden] {
      const GateTable& table = gates->get();
      const float* values = table.row(layer, first).data();
      return std::vector<float>(values, values + rows * hidden);
    };
    moe_.plan.steps.push_back({{std::move(name), moe_.dtype, {rows, hidden}},
                               Fill{fmt::format("router, gate_mode {}", moe_.gate_mode->name), compute}});
  }

  // The random stream of an expert's weight has its per-expert name in either layout, so that both hold equal
  // values.
  Part part(const Model& model, const ExpertConfig& config, int64_t group, Role role, Role source,
            int64_t layer) const {
    return {.source = &model.tensor(source, layer),
            .group = group,
            .noise_stream = weight_name(weight_for(family_, role), layer, group),
            .noise_scale = config.noise_scale,
            .residual_scale = source == Role::ffn_down ? config.residual_scale : 1.0};
  }

  Part part(Role role, int64_t layer, int64_t expert) const {
    const auto e = static_cast<size_t>(expert);
    return part(*moe_.models.experts[e], moe_.config.experts[e], expert, role, role, layer);
  }

  void add_experts(int64_t layer) {
    for (int64_t e = 0; e < experts(); e++)
      for (const Role role : kFfn)
        add(weight_name(weight_for(family_, role), layer, e), expected_shape(role, base_.config),
            {part(role, layer, e)});
  }

  void add_stacked(int64_t layer) {
    const int64_t hidden = base_.config.hidden, ffn = base_.config.ffn;
    std::vector<Part> gate_up, down;
    for (int64_t e = 0; e < experts(); e++) {
      gate_up.push_back(part(Role::ffn_gate, layer, e));
      gate_up.push_back(part(Role::ffn_up, layer, e));
      down.push_back(part(Role::ffn_down, layer, e));
    }
    add(fill_name(stacked_.gate_up, layer), {experts(), 2 * ffn, hidden}, std::move(gate_up));
    add(fill_name(stacked_.down, layer), {experts(), hidden, ffn}, std::move(down));
  }

  // choose_output() has seen to it that there is no more than one.
  void add_shared_expert(int64_t layer) {
    std::vector<Part> parts;
    for (const Role role : {Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down})
      parts.push_back(part(*moe_.models.shared_experts.front(), moe_.config.shared_experts.front(),
                           kFirstSharedGroup, role, in_source(role), layer));
    const int64_t hidden = base_.config.hidden, ffn = base_.config.ffn;
    if (fused() && !stacked_.shared_gate_up.empty()) {
      add(fill_name(stacked_.shared_gate_up, layer), {2 * ffn, hidden}, {parts[0], parts[1]});
      add(fill_name(stacked_.shared_down, layer), {hidden, ffn}, {parts[2]});
      return;
    }
    const auto name = [&](Role role) { return weight_name(weight_for(family_, role), layer); };
    add(name(Role::shared_ffn_gate), {ffn, hidden}, {parts[0]});
    add(name(Role::shared_ffn_up), {ffn, hidden}, {parts[1]});
    add(name(Role::shared_ffn_down), {hidden, ffn}, {parts[2]});
  }

  MoePlan& moe_;
  const Model& base_;
  const Architecture& family_;  // of the output
  const StackedLayout& stacked_;
};

}  // namespace

void add_steps(MoePlan& moe) { Steps(moe).add_all(); }

}  // namespace moerge
