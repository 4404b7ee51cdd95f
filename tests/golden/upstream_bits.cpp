// Raw random bits of upstream MLX, which its Python API does not expose. make_random_golden.py builds and calls this.
#include <cstdint>
#include <cstring>

#include "mlx/mlx.h"

namespace mx = mlx::core;

// `keys` holds `count` keys; `out` receives count * n elements of `width` bytes. Several keys go through vmap, as in Python.
extern "C" int upstream_bits(const uint32_t* keys, int count, int n, int width, void* out) {
  try {
    auto draw = [&](const mx::array& key) { return mx::random::bits({n}, width, key); };
    mx::array result(0);
    if (count == 1) {
      result = draw(mx::array(keys, {2}, mx::uint32));
    } else {
      result = mx::vmap(std::function<mx::array(const mx::array&)>(draw), 0, 0)(mx::array(keys, {count, 2}, mx::uint32));
    }
    mx::eval(result);
    std::memcpy(out, result.data<char>(), result.nbytes());
    return 0;
  } catch (const std::exception&) {
    return 1;
  }
}
