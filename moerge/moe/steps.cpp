#include "moerge/moe/steps.h"

#include <fmt/format.h>

#include "moerge/moe/grow.h"

namespace moerge {
namespace {

constexpr Role kFfn[] = {Role::ffn_gate, Role::ffn_up, Role::ffn_down};

bool is_bias(Role role) {
  return role == Role::q_bias || role == Role::k_bias || role == Role::v_bias || role == Role::o_bias;
}

class Steps {
 public:
  Steps(const MoePlan& moe, Layout layout)
      : moe_(moe),
        layout_(layout),
        base_(*moe.models.base),
        family_(*moe.output->architecture),
        experts_(list_experts(moe.models, moe.config)),
        stacked_(family_.mixture->stacked) {}

  std::vector<Step> make_all() {
    add_of_base(Role::embedding, -1);
    for (int64_t layer = 0; layer < base_.config.layers; layer++)
      for (const WeightTemplate& weight : family_.weights)
        if (is_per_layer(weight.role)) add_role(weight, layer);
    add_of_base(Role::output_norm, -1);
    add_of_base(Role::output, -1);
    return std::move(steps_);
  }

 private:
  bool fused() const { return layout_ == Layout::fused; }
  int64_t experts() const { return std::ssize(experts_); }

  void add_role(const WeightTemplate& weight, int64_t layer) {
    switch (weight.role) {
      case Role::router:
        return add_router(fused() ? fill_name(stacked_.router, layer) : weight_name(weight, layer), layer);
      case Role::ffn_gate:  // the first of three, which are planned together
        return fused() ? add_stacked(layer) : add_experts(layer);
      case Role::shared_ffn_gate:
        if (base_.is_mixture()) return add_of_base(weight.role, layer);
        if (!moe_.models.shared_experts.empty()) add_shared_expert(layer);
        return;
      case Role::shared_ffn_up:
      case Role::shared_ffn_down:
        if (base_.is_mixture()) add_of_base(weight.role, layer);
        return;
      case Role::shared_router:
        return base_.is_mixture() ? add_of_base(weight.role, layer)
                                  : add_shared_router(weight_name(weight, layer), layer);
      case Role::ffn_up:
      case Role::ffn_down:
      case Role::ignored:
        return;
      default:
        return add_of_base(weight.role, layer);
    }
  }

  void add(std::string name, Shape shape, std::vector<Part> parts) {
    steps_.push_back({{std::move(name), moe_.dtype, std::move(shape)}, Concat{std::move(parts)}});
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
    const auto size = static_cast<size_t>(shape[0]);
    add_fill(std::move(name), std::move(shape), "zeros: the base has no such bias",
             [size] { return std::vector<float>(size); });
  }

  void add_fill(std::string name, Shape shape, std::string description,
                std::function<std::vector<float>()> compute) {
    steps_.push_back(
        {{std::move(name), moe_.dtype, std::move(shape)}, Fill{std::move(description), std::move(compute)}});
  }

  void add_router(std::string name, int64_t layer) {
    const StoredTensor* old_rows = base_.is_mixture() ? &base_.tensor(Role::router, layer) : nullptr;
    const int64_t added = std::ssize(moe_.models.experts);
    std::string how = gate_mode();
    if (old_rows) how = fmt::format("{}: {} + {}", place_of(*old_rows).string(), old_rows->spec.name, how);
    add_fill(std::move(name), {experts(), base_.config.hidden}, std::move(how),
             [gates = moe_.gates, layer, old_rows, added] {
               return router_rows(old_rows, gates->get().table, added, layer);
             });
  }

  // The rows of the shared experts come after those of the others.
  void add_shared_router(std::string name, int64_t layer) {
    const int64_t first = std::ssize(moe_.models.experts), rows = std::ssize(moe_.models.shared_experts);
    add_fill(std::move(name), {rows, base_.config.hidden}, gate_mode(),
             [gates = moe_.gates, layer, first, rows] {
               const GateTable& table = gates->get().table;
               const float* values = table.row(layer, first).data();
               return std::vector<float>(values, values + rows * table.hidden);
             });
  }

  std::string gate_mode() const { return fmt::format("router, gate_mode {}", moe_.gate_mode->name); }

  // The random stream of an expert's weight has its per-expert name in either layout, so that both hold equal
  // values.
  Part part(Role role, int64_t layer, int64_t expert) const {
    const ExpertSource& source = experts_[static_cast<size_t>(expert)];
    const StoredTensor& tensor = source.model->tensor(role, layer, source.expert);
    if (!source.config) return {.source = &tensor, .group = kBaseGroup, .noise_stream = {}};
    return changed(tensor, *source.config, expert - moe_.models.kept_experts(),
                   weight_name(weight_for(family_, role), layer, expert), role == Role::ffn_down);
  }

  // choose_output() has seen to it that there is no more than one.
  Part shared_part(Role role, int64_t layer) const {
    const Role source = dense_role(role);
    return changed(moe_.models.shared_experts.front()->tensor(source, layer),
                   moe_.config.shared_experts.front(), kFirstSharedGroup,
                   weight_name(weight_for(family_, role), layer), source == Role::ffn_down);
  }

  static Part changed(const StoredTensor& tensor, const ExpertConfig& config, int64_t group,
                      std::string stream, bool is_down) {
    return {.source = &tensor,
            .group = group,
            .noise_stream = std::move(stream),
            .noise_scale = config.noise_scale,
            .residual_scale = is_down ? config.residual_scale : 1.0};
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

  void add_shared_expert(int64_t layer) {
    std::vector<Part> parts;
    for (const Role role : {Role::shared_ffn_gate, Role::shared_ffn_up, Role::shared_ffn_down})
      parts.push_back(shared_part(role, layer));
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

  const MoePlan& moe_;
  const Layout layout_;
  std::vector<Step> steps_;
  const Model& base_;
  const Architecture& family_;  // of the output
  const std::vector<ExpertSource> experts_;
  const StackedLayout& stacked_;
};

}  // namespace

std::vector<Step> make_steps(const MoePlan& moe, Layout layout) { return Steps(moe, layout).make_all(); }

}  // namespace moerge
