/** How far one next-token distribution is from another. */

export interface Divergence {
  /** Kullback-Leibler divergence in nats, of the second from the first. */
  kl: number
  /** Is the most likely token the same? */
  sameTop: boolean
}

/** log of the softmax's denominator, with the largest logit taken out. */
function logSum(logits: Float32Array): { most: number; log: number; top: number } {
  let top = 0
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[top]!) top = i
  const most = logits[top]!
  let sum = 0
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i]! - most)
  return { most, log: Math.log(sum), top }
}

/** KL(p || q) of two rows of logits, in f64. */
export function divergence(p: Float32Array, q: Float32Array): Divergence {
  if (p.length !== q.length) throw new RangeError(`rows of ${p.length} and ${q.length} logits`)
  const a = logSum(p)
  const b = logSum(q)
  let kl = 0
  for (let i = 0; i < p.length; i++) {
    const logP = p[i]! - a.most - a.log
    kl += Math.exp(logP) * (logP - (q[i]! - b.most - b.log))
  }
  return { kl: Math.max(0, kl), sameTop: a.top === b.top }
}

export function divergences(expected: Float32Array[][], actual: Float32Array[][]): Divergence[] {
  return expected.flatMap((rows, text) => rows.map((row, i) => divergence(row, actual[text]![i]!)))
}

export interface DivergenceSummary {
  positions: number
  /** Mean. */
  kl: number
  /** 99th percentile. */
  klP99: number
  /** Share of positions with the same most likely token. */
  top1: number
}

export function summary(all: Divergence[]): DivergenceSummary {
  const sorted = all.map(({ kl }) => kl).toSorted((a, b) => a - b)
  return {
    positions: all.length,
    kl: sorted.reduce((sum, kl) => sum + kl, 0) / all.length,
    klP99: sorted[Math.min(all.length - 1, Math.floor(0.99 * all.length))]!,
    top1: all.filter(({ sameTop }) => sameTop).length / all.length,
  }
}
