// Elementary functions, stores by kind, RMSNorm, RoPE and softmax.

// 2^x for x <= 127; 0 below -126. Taylor series of 2^f on |f| <= 1/2 to the seventh power: relative error 5e-9 before
// rounding; exactly 1 at 0. NaN stays NaN: x is the second operand of max and min.
inline F vexp2(F x) {
  const F clamped = vmin(vset(127.0f), vmax(vset(-126.0f), x));
  const F n = vround(clamped);
  const F f = clamped - n;
  F p = vset(1.5252733804e-5f);
  p = vfma(p, f, vset(1.5403530394e-4f));
  p = vfma(p, f, vset(1.3333558146e-3f));
  p = vfma(p, f, vset(9.6181291076e-3f));
  p = vfma(p, f, vset(5.5504108665e-2f));
  p = vfma(p, f, vset(2.4022650696e-1f));
  p = vfma(p, f, vset(6.9314718056e-1f));
  p = vfma(p, f, vset(1.0f));
  // "below -126" is asked so that an unordered x keeps its NaN.
  return vselect_ge(vset(-126.0f), x, vset(0.0f), p * vpow2(n));
}

// e^x on [-87, 88], clamped outside. Range reduction after Cody and Waite, polynomial of the Cephes library (expf.c).
inline F vexp(F x) {
  const F clamped = vmin(vset(88.0f), vmax(vset(-87.0f), x));
  const F n = vround(clamped * vset(1.44269504f));
  const F r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), clamped));
  F p = vset(1.9875691500e-4f);
  p = vfma(p, r, vset(1.3981999507e-3f));
  p = vfma(p, r, vset(8.3334519073e-3f));
  p = vfma(p, r, vset(4.1665795894e-2f));
  p = vfma(p, r, vset(1.6666665459e-1f));
  p = vfma(p, r, vset(5.0000001201e-1f));
  p = vfma(p, r * r, r) + vset(1.0f);
  return p * vpow2(n);
}

inline F vsilu(F x) {
  return x / (vset(1.0f) + vexp(vset(0.0f) - x));
}

inline float exp2_of(float x) {
  float lanes[W];
  vstore(lanes, vexp2(vset(x)));
  return lanes[0];
}

inline int lanes_left(int64_t left) {
  return left < W ? static_cast<int>(left) : W;
}

// Lanes [0, n) of v to element `at` of an activation row.
inline void store_as(void* row, int64_t at, F v, int n, Store store) {
  if (store == Store::kBf16) {
    vstore_bf16_n(static_cast<uint16_t*>(row) + at, v, n);
    return;
  }
  if (store == Store::kRounded) v = vround_bf16(v);
  float* out = static_cast<float*>(row) + at;
  if (n == W) {
    vstore(out, v);
  } else {
    vstore_n(out, v, n);
  }
}

inline F load_as(const void* row, int64_t at, int n, Store store) {
  if (store == Store::kBf16) return vload_bf16_n(static_cast<const uint16_t*>(row) + at, n);
  const float* in = static_cast<const float*>(row) + at;
  return n == W ? vload(in) : vload_n(in, n);
}

// 1 / sqrt(mean of squares + eps). Four partial sums per lane hide the latency of the addition.
inline float inverse_rms(const float* x, int64_t n, float eps) {
  F sum[4] = {vset(0.0f), vset(0.0f), vset(0.0f), vset(0.0f)};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const F v = vload(x + i + j * W);
      sum[j] = vfma(v, v, sum[j]);
    }
  }
  for (; i < n; i += W) {
    const F v = vload_n(x + i, lanes_left(n - i));
    sum[0] = vfma(v, v, sum[0]);
  }
  const float total = vsum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
}

void rms_norm(const NormArgs* args) {
  const F inverse = vset(inverse_rms(args->x, args->cols, args->eps));
  for (int64_t i = 0; i < args->cols; i += W) {
    const int n = lanes_left(args->cols - i);
    store_as(args->out, i, vload_n(args->x + i, n) * inverse * vload_n(args->weight + i, n), n, args->store);
  }
}

// Rotate-half: (a, b) -> (a cos - b sin, b cos + a sin) for elements i and i + head_dim / 2.
void norm_rope(const RopeArgs* args) {
  const int64_t half = args->head_dim / 2;
  const F inverse = vset(inverse_rms(args->x, args->head_dim, args->eps));
  for (int64_t i = 0; i < half; i += W) {
    const int n = lanes_left(half - i);
    const F a = vload_n(args->x + i, n) * inverse * vload_n(args->weight + i, n);
    const F b = vload_n(args->x + half + i, n) * inverse * vload_n(args->weight + half + i, n);
    const F cosine = vload_n(args->cosine + i, n), sine = vload_n(args->sine + i, n);
    store_as(args->out, i, a * cosine - b * sine, n, args->store);
    store_as(args->out, half + i, b * cosine + a * sine, n, args->store);
  }
}

void softmax(const float* logits, int64_t n, float* probabilities) {
  F largest = vset(-__builtin_inff());
  for (int64_t i = 0; i < n; i += W) {
    const int left = lanes_left(n - i);
    largest = vmax(largest, vkeep_first(vload_n(logits + i, left), left, -__builtin_inff()));
  }
  const F top = vset(vhmax(largest));
  F sum = vset(0.0f);
  for (int64_t i = 0; i < n; i += W) {
    const int left = lanes_left(n - i);
    const F e = vkeep_first(vexp(vload_n(logits + i, left) - top), left, 0.0f);
    sum = sum + e;
    vstore_n(probabilities + i, e, left);
  }
  const F total = vset(vsum(sum));
  for (int64_t i = 0; i < n; i += W) {
    const int left = lanes_left(n - i);
    vstore_n(probabilities + i, vload_n(probabilities + i, left) / total, left);
  }
}

void add_scaled(const float* rows, int64_t stride, const int32_t* place, const float* scale, int64_t n_scales,
                int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += W) {
    const int left = lanes_left(n - i);
    F sum = vset(0.0f);
    for (int64_t r = 0; r < n_scales; ++r) sum = vfma(vset(scale[r]), vload_n(rows + place[r] * stride + i, left), sum);
    vstore_n(out + i, vload_n(out + i, left) + sum, left);
  }
}
