/** How evenly a mixture of experts used its experts: from the rows that were routed to each since the model was loaded. */

export interface ExpertLoad {
  /** Rows routed to each expert, one array for every layer that has experts. */
  counts: Float64Array[]
  /** Of each of those layers: entropy of the experts' shares in nats; ln(experts) when all are used alike. 0 before the first row. */
  entropy: number[]
  /**
   * Of each of those layers: experts x the sum of squared shares, over everything that was run. It is the global-batch load-balance
   * measure of Qwen3's training (Qiu et al. 2025, experts x sum f_i p_i) with the measured share f_i in place of the router's mean
   * probability p_i: 1 when all experts are used alike, the number of experts when a single one is. 0 before the first row.
   */
  balance: number[]
}

/** `counts`: layer by layer, `experts` each. Layers without experts count nothing and are left out. */
export function expertLoad(counts: Float64Array, experts: number, moeLayers: Uint8Array): ExpertLoad {
  const load: ExpertLoad = { counts: [], entropy: [], balance: [] }
  for (const [layer, hasExperts] of moeLayers.entries()) {
    if (!hasExperts) continue
    const rows = counts.slice(layer * experts, (layer + 1) * experts)
    const total = rows.reduce((sum, n) => sum + n, 0)
    let entropy = 0
    let squares = 0
    for (const n of rows) {
      if (n === 0) continue
      const share = n / total
      entropy -= share * Math.log(share)
      squares += share * share
    }
    load.counts.push(rows)
    load.entropy.push(entropy)
    load.balance.push(experts * squares)
  }
  return load
}
