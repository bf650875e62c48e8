// Of levels at which no activation is kept as bf16 (KernelTable::bf16_products).

inline void vstore_bf16_n(uint16_t*, F, int) {
  __builtin_trap();
}
inline F vload_bf16_n(const uint16_t*, int) {
  __builtin_trap();
}
