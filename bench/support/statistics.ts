/** A share with its 95% interval. */
export interface Share {
  accuracy: number
  low: number
  high: number
}

/**
 * The share of right answers when every problem was answered once per seed. Answers to one problem are not independent, so
 * the interval treats the problem as the unit: the standard error is that of the problems' means, turned into an effective
 * sample size (at least the number of problems, at most that of answers) for Wilson's score interval
 * (Wilson 1927; Brown, Cai and DasGupta 2001), which behaves near 0 and 1.
 *
 * @param grades one list a problem, one entry a seed
 */
export function share(grades: boolean[][]): Share {
  const n = grades.length
  if (n === 0) throw new RangeError('no grades')
  const means = grades.map((list) => list.filter(Boolean).length / list.length)
  const p = means.reduce((sum, mean) => sum + mean, 0) / n
  const variance = n > 1 ? means.reduce((sum, mean) => sum + (mean - p) ** 2, 0) / (n - 1) : 0
  const answers = grades.reduce((sum, list) => sum + list.length, 0)
  const effective = variance > 0 ? Math.min(answers, Math.max(n, (p * (1 - p) * n) / variance)) : n
  return { accuracy: p, ...wilson(p, effective) }
}

/** Wilson's score interval at 95%. */
export function wilson(p: number, n: number): { low: number; high: number } {
  const z = 1.959964
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n)
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))
  return { low: Math.max(0, centre - half), high: Math.min(1, centre + half) }
}

/** The value below which `fraction` of the values lie. */
export function quantile(values: number[], fraction: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(fraction * sorted.length))] ?? Number.NaN
}

/** The middle value, or the mean of the two middle ones. */
export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const half = sorted.length / 2
  return sorted.length === 0 ? Number.NaN : (sorted[Math.ceil(half) - 1]! + sorted[Math.floor(half)]!) / 2
}
