// Activations to s8, weights to integers.

void quantise(const QuantiseArgs* args) {
  constexpr int kMost = static_cast<int>(kBlock) / W;
  const int vectors = static_cast<int>(args->group) / W;
  for (int64_t g = 0; g < args->n_groups; ++g) {
    const int64_t first = g * args->group;
    F v[kMost];
    I top = iset(0);
    for (int i = 0; i < vectors; ++i) {
      const int64_t at = first + i * W, left = args->cols - at;
      v[i] = left > 0 ? load_as(args->x, at, lanes_left(left), args->store) : vset(0.0f);
      top = imax(top, imagnitude_bits(v[i]));
    }
    const int32_t bits = ihmax(top);
    float largest;
    __builtin_memcpy(&largest, &bits, sizeof largest);
    const bool finite = bits < 0x7f800000, counts = finite && largest >= 7.888609052210118e-31f;
    const F inverse = vset(counts ? 127.0f / largest : 0.0f);
    args->scales[g * args->meta_stride] = !finite ? __builtin_nanf("") : counts ? largest / 127.0f : 0.0f;
    I sum = iset(0);
    for (int i = 0; i < vectors; ++i) {
      const I q = counts ? iround(v[i] * inverse) : iset(0);
      sum = iadd(sum, q);
      istore_s8(args->out + first + i * W, q);
    }
    const int32_t total = ihsum(sum);
    if (args->offset) {
      args->corrections[g * args->meta_stride] = -args->offset * total;
    } else {
      const float part = static_cast<float>(total) * -0.0625f;
      __builtin_memcpy(args->corrections + g * args->meta_stride, &part, sizeof part);
    }
  }
}

#pragma GCC diagnostic ignored "-Wpsabi"  // nothing here is called from outside

// Lanes are 16 groups of a row, in the compiler's vectors: what a group gets does not depend on the level.
typedef float V __attribute__((vector_size(64)));

// values[i] = element i of each group, from `group` on; lanes past the end are 0.
inline void load_groups(const float* w, int64_t group, int64_t n_groups, int size, V* values) {
  for (int i = 0; i < size; ++i) values[i] = V{};
  for (int64_t lane = 0; lane < 16 && group + lane < n_groups; ++lane) {
    for (int i = 0; i < size; ++i) values[i][lane] = w[(group + lane) * size + i];
  }
}

inline void store_groups(float* out, int64_t group, int64_t n_groups, const V& v) {
  for (int64_t lane = 0; lane < 16 && group + lane < n_groups; ++lane) out[group + lane] = v[lane];
}

inline V lane_min(const V& a, const V& b) {
  return a < b ? a : b;
}
inline V lane_max(const V& a, const V& b) {
  return a > b ? a : b;
}
inline V nearest(const V& x) {  // to even, |x| < 2^22
  return (x + 12582912.0f) - 12582912.0f;
}

// Largest magnitude / 127.
void fit_int8(const FitArgs* args) {
  for (int64_t group = 0; group < args->n_groups; group += 16) {
    V w[64], top = {}, finite = {};
    load_groups(args->w, group, args->n_groups, 64, w);
    for (const V& x : w) {
      top = lane_max(top, lane_max(x, -x));
      finite += x * 0.0f;  // NaN when any is not finite
    }
    store_groups(args->scale, group, args->n_groups, top / 127.0f + finite);
  }
}

struct Fit {
  V gain, scale, zero;  // how much of sum w^2 is explained, and by what
};

// Rounds with the scale 1 / inverse and the zero point, then takes what fits the rounded q best in the least squares
// sense: the line scale * q - scale * zero when the zero point is free, then the scale alone, as the zero point has 16
// steps to the unit. With d = q - zero the error is sum w^2 - (sum w d)^2 / sum d^2.
inline void try_fit(const V* w, const V& sum_w, const V& inverse, const V& zero, bool free_zero, Fit& best) {
  V wq = {}, q1 = {}, q2 = {};
  for (int i = 0; i < 32; ++i) {
    const V q = lane_min(lane_max(nearest(w[i] * inverse + zero), V{}), V{} + 15.0f);
    wq += w[i] * q;
    q1 += q;
    q2 += q * q;
  }
  const V one = V{} + 1.0f;
  V chosen = zero;
  if (free_zero) {
    const V spread = 32.0f * q2 - q1 * q1, slope = (32.0f * wq - sum_w * q1) / (spread > 0.0f ? spread : one);
    const V line = (slope * q1 - sum_w) / (32.0f * (slope > 0.0f ? slope : one));
    const V rounded = nearest(lane_min(lane_max(line, V{}), V{} + 15.0f) * 16.0f) * 0.0625f;
    chosen = slope > 0.0f ? rounded : zero;
  }
  const V wd = wq - chosen * sum_w, dd = q2 - chosen * (2.0f * q1 - 32.0f * chosen);
  const V scale = wd / (dd > 0.0f ? dd : one), gain = scale * wd;
  const auto better = gain > best.gain;
  best.gain = better ? gain : best.gain;
  best.scale = better ? scale : best.scale;
  best.zero = better ? chosen : best.zero;
}

void fit_int4(const FitArgs* args) {
  // Where the element of the largest magnitude lands, relative to the zero point (on either side), and by how much the
  // ends of the range are drawn in: clipping the few largest pays.
  constexpr float kEnds[] = {-8.5f, -8.0f, -7.5f, -7.0f, -6.5f, -6.0f, 7.5f, 7.0f, 6.5f, 6.0f};
  constexpr float kRanges[] = {1.0f, 0.93f, 0.86f, 0.79f, 0.72f};
  const V one = V{} + 1.0f;
  for (int64_t group = 0; group < args->n_groups; group += 16) {
    V w[32], low = {}, high = {}, sum = {}, finite = {};
    load_groups(args->w, group, args->n_groups, 32, w);
    for (const V& x : w) {
      low = lane_min(low, x), high = lane_max(high, x);
      sum += x;
      finite += x * 0.0f;  // NaN when any is not finite
    }
    Fit best{V{}, V{}, V{} + 8.0f};
    if (args->offset) {
      for (const float below : kRanges) {
        for (const float above : kRanges) {
          const V range = high * above - low * below, some = range > 0.0f ? range : one;
          const V zero = nearest(-low * below * 240.0f / some) * 0.0625f;
          try_fit(w, sum, 15.0f / some, zero, true, best);
        }
      }
    } else {
      const V largest = -low > high ? low : high, some = largest != 0.0f ? largest : one;
      for (const float end : kEnds) try_fit(w, sum, end / some, V{} + 8.0f, false, best);
    }
    store_groups(args->scale, group, args->n_groups, best.scale + finite);
    store_groups(args->zero, group, args->n_groups, best.zero);
  }
}

void encode(const EncodeArgs* args) {
  typedef int32_t Whole __attribute__((vector_size(64)));
  typedef uint8_t Bytes __attribute__((vector_size(16)));
  const V low = V{} + args->low, high = V{} + args->high;
  for (int64_t g = 0; g < args->n_groups; ++g) {
    const float scale = args->scale[g], inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    for (int64_t at = g * args->group; at < (g + 1) * args->group; at += 16) {
      V w;
      __builtin_memcpy(&w, args->w + at, sizeof w);
      // A NaN ends at `low`: its scale is NaN as well.
      const V q = lane_min(lane_max(nearest(w * inverse + args->zero[g]), low), high);
      const Bytes bytes = __builtin_convertvector(__builtin_convertvector(q, Whole), Bytes);
      __builtin_memcpy(args->q + at, &bytes, sizeof bytes);
    }
  }
}
