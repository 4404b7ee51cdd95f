// Programs: many operations in one call.
#include "internal.hpp"

namespace mlxr {

namespace {

// The operands and parameters of one step, checked as they are taken.
class Step {
  public:
    Step(const mlxr_program &program, const mlxr_instr &instr, const std::vector<mx::array> &values)
        : instr_(instr), values_(values) {
        if (instr.size < sizeof(mlxr_instr)) fail(MLXR_E_ABI, "instr->size is smaller than mlxr_instr");
        check_span(instr.ints, instr.nints, program.nints);
        check_span(instr.floats, instr.nfloats, program.nfloats);
        ints_ = program.ints + instr.ints;
        floats_ = program.floats + instr.floats;
    }

    const mx::array &in(int k) const {
        int32_t number = instr_.in[k];
        if (number < 0 || static_cast<size_t>(number) >= values_.size()) {
            fail(MLXR_E_INVALID, "an operand is not an earlier value");
        }
        return values_[number];
    }

    std::optional<mx::array> optional(int k) const {
        if (instr_.in[k] == -1) return std::nullopt;
        return in(k);
    }

    int32_t number(int i) const {
        if (i >= instr_.nints) fail(MLXR_E_INVALID, "a parameter is missing");
        if (ints_[i] < INT32_MIN || ints_[i] > INT32_MAX) fail(MLXR_E_OVERFLOW, "a parameter does not fit 32 bits");
        return static_cast<int32_t>(ints_[i]);
    }

    float real(int i) const {
        if (i >= instr_.nfloats) fail(MLXR_E_INVALID, "a parameter is missing");
        return static_cast<float>(floats_[i]);
    }

    std::vector<int> numbers(int from) const {
        std::vector<int> rest;
        for (int i = from; i < instr_.nints; i++)
            rest.push_back(number(i));
        return rest;
    }

    mx::Shape shape(int64_t lowest) const { return shape_of(ints_, instr_.nints, lowest); }
    const int64_t *ints() const { return ints_; }
    int32_t nints() const { return instr_.nints; }

  private:
    static void check_span(int32_t first, int32_t n, int32_t total) {
        if (first < 0 || n < 0 || first > total - n) fail(MLXR_E_INVALID, "parameters outside of the program");
    }

    const mlxr_instr &instr_;
    const std::vector<mx::array> &values_;
    const int64_t *ints_;
    const double *floats_;
};

mx::array execute(Scope &scope, int32_t op, const Step &step, mx::Stream s) {
    switch (op >> 8) {
    case MLXR_ABS >> 8: return unary(op, step.in(0), s);
    case MLXR_ADD >> 8: return binary(scope, op, step.in(0), step.in(1), s);
    case MLXR_WHERE >> 8: return select(op, step.in(0), step.optional(1), step.optional(2), s);
    case MLXR_ASTYPE >> 8: return cast(op, step.in(0), step.number(0), s);
    case MLXR_SUM >> 8: {
        auto axes = step.numbers(2);
        return reduce(op, step.in(0), axes.empty() ? all_axes(step.in(0)) : axes, step.number(0) != 0, step.number(1),
                      s);
    }
    case MLXR_CUMSUM >> 8: return scan(op, step.in(0), step.number(0), step.number(1) != 0, step.number(2) != 0, s);
    case MLXR_SORT >> 8: return sort(op, step.in(0), step.number(0), step.number(1), s);
    default: break;
    }
    switch (op) {
    case MLXR_MATMUL: return mx::matmul(step.in(0), step.in(1), s);
    case MLXR_ADDMM: return mx::addmm(step.in(0), step.in(1), step.in(2), step.real(0), step.real(1), s);
    case MLXR_RESHAPE: return mx::reshape(step.in(0), step.shape(-1), s);
    case MLXR_TRANSPOSE:
        return step.nints() ? mx::transpose(step.in(0), step.numbers(0), s) : mx::transpose(step.in(0), s);
    case MLXR_BROADCAST_TO: return mx::broadcast_to(step.in(0), step.shape(0), s);
    case MLXR_SLICE: {
        int32_t n = step.nints() / 3;
        if (step.nints() != 3 * n) fail(MLXR_E_INVALID, "a slice takes start, stop and step for each axis");
        return slice(step.in(0), step.ints(), step.ints() + n, step.ints() + 2 * n, n, s);
    }
    case MLXR_AS_STRIDED: {
        int32_t n = (step.nints() - 1) / 2;
        if (step.nints() != 2 * n + 1) fail(MLXR_E_INVALID, "a window takes a shape, strides and an offset");
        return as_strided(step.in(0), step.ints(), step.ints() + n, n, step.ints()[2 * n], s);
    }
    case MLXR_CONCATENATE: {
        std::vector<mx::array> parts;
        for (int k = 0; k < 4; k++) {
            if (auto part = step.optional(k)) parts.push_back(*part);
        }
        return mx::concatenate(std::move(parts), step.number(0), s);
    }
    case MLXR_CONTIGUOUS: return mx::contiguous(step.in(0), false, s);
    case MLXR_TAKE: return take(scope, step.in(0), step.in(1), step.number(0), s);
    case MLXR_TAKE_ALONG_AXIS: return take_along_axis(scope, step.in(0), step.in(1), step.number(0), s);
    case MLXR_SOFTMAX: return mx::softmax(step.in(0), step.numbers(1), step.number(0) != 0, s);
    case MLXR_RMS_NORM: return rms_norm(step.in(0), step.optional(1), step.real(0), s);
    case MLXR_LAYER_NORM: return layer_norm(step.in(0), step.optional(1), step.optional(2), step.real(0), s);
    case MLXR_ROPE:
        return rope(step.in(0), step.number(0), step.number(1) != 0, step.real(0), step.real(1), step.number(2),
                    step.optional(1), step.optional(2), s);
    case MLXR_SDPA:
        return attention(step.in(0), step.in(1), step.in(2), step.real(0), step.number(0), step.optional(3),
                         std::nullopt, s);
    case MLXR_QUANTIZED_MATMUL:
        return quantized_matmul(step.in(0), step.in(1), step.in(2), step.optional(3), step.number(0) != 0,
                                step.number(1), step.number(2), step.number(3), s);
    default: fail(MLXR_E_OPCODE, std::to_string(op) + " cannot be part of a program");
    }
}

void check_program(const mlxr_program *program) {
    required(program, "program");
    if (program->size < sizeof(mlxr_program)) fail(MLXR_E_ABI, "program->size is smaller than mlxr_program");
    for (int32_t count : {program->ninputs, program->ninstrs, program->nresults, program->nints, program->nfloats}) {
        if (count < 0) fail(MLXR_E_INVALID, "a program with a negative count");
    }
    if (program->ninstrs) required(program->instrs, "program->instrs");
    if (program->nresults) required(program->results, "program->results");
    if (program->nints) required(program->ints, "program->ints");
    if (program->nfloats) required(program->floats, "program->floats");
}

// The values of one run, in room that the next run uses again. A vector of its own would often be a large block to
// malloc, and glibc merges all of its small free blocks before it hands out a large one: upstream's next allocations, a
// dozen for each operation, would then take twice the instructions.
class Values {
  public:
    explicit Values(Scope &scope) : scope_(scope), values_(scope.take_room()) {}
    ~Values() { scope_.give_room(std::move(values_)); }
    Values(const Values &) = delete;
    Values &operator=(const Values &) = delete;
    std::vector<mx::array> &operator*() { return values_; }

  private:
    Scope &scope_;
    std::vector<mx::array> values_;
};

} // namespace

} // namespace mlxr

using namespace mlxr;

extern "C" {

mlxr_status mlxr_run(const mlxr_program *program, const mlxr_array *inputs, mlxr_stream stream, mlxr_array *out) {
    return status_entry([&](Scope &scope) {
        check_program(program);
        auto s = scope.stream(stream);
        Values room(scope);
        auto &values = *room;
        auto computed = static_cast<size_t>(program->ninputs) + program->ninstrs;
        values.reserve(computed + program->nresults);
        scope.append(values, inputs, program->ninputs);
        auto *cursor = reinterpret_cast<const char *>(program->instrs);
        for (int32_t i = 0; i < program->ninstrs; i++) {
            const auto &instr = *reinterpret_cast<const mlxr_instr *>(cursor);
            const auto &value = values.emplace_back(execute(scope, instr.op, Step(*program, instr, values), s));
            check_size(value.shape(), value.dtype());
            cursor += instr.size;
        }
        for (int32_t i = 0; i < program->nresults; i++) {
            int32_t number = program->results[i];
            if (number < 0 || static_cast<size_t>(number) >= computed) {
                fail(MLXR_E_INVALID, "a result is not a value of the program");
            }
            values.push_back(values[number]);
        }
        if (program->nresults) scope.put_all(std::span(values).subspan(computed), out);
    });
}

} // extern "C"
