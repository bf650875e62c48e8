/** Ratios and fractions out of pairs of neighbouring measurements. */
import { median } from '../support/statistics'
import { type Cell, cellName, type Roofs, tasks } from './cells'
import type { Measured } from './run'

export interface Spread {
  median: number
  low: number
  high: number
}

export interface Side {
  /** Tokens per second: the median of the rounds' medians. */
  tokensPerSecond?: Spread
  /** Of what the machine allows for this side's bytes. */
  fraction?: number
  ceiling?: number
  bits: number
  loadMs: Spread
  /** load: loading and the first token of a short prompt. */
  readyMs?: Spread
  /** load, ours: the same without the cache of packed weights, and the peak of memory then. */
  cold?: { readyMs: number; peak: number }
  memory: { peak: number; anonymous: number; mapped: number }
}

export interface CellResult {
  date: string
  commit: string
  device: string
  rounds: number
  /** Processors that others kept busy during the most disturbed measurement that counts. */
  disturbed: number
  /** ours / peer; for `load`: of the time until the first token. */
  ratio: Spread
  /** load: ours / peer. */
  memoryRatio?: number
  ours: Side
  peer: Side & { flashAttention: boolean }
  roofs: Roofs
}

export interface Results {
  peer: string
  threads: number
  limits?: object
  /** Best rates of the peer with flash attention and without, by shape and task; measured once, it is no matter of weights. */
  flash: Record<string, { on: number; off: number }>
  cells: Record<string, CellResult>
}

const spread = (values: number[]): Spread => ({
  median: round(median(values)),
  low: round(Math.min(...values)),
  high: round(Math.max(...values)),
})

const round = (value: number) => Number(value.toPrecision(4))

interface Pair {
  ours: Measured
  peer: Measured
}

const middle = ({ values }: Measured) => median(values)
const ready = (one: Measured) => one.loadMs + middle(one)

/** Medians over rounds; memory is that of the round with the highest peak. */
export function summarise(pairs: Pair[]) {
  const side = (name: keyof Pair) => {
    const all = pairs.map((pair) => pair[name])
    return {
      rate: spread(all.map(middle)),
      loadMs: spread(all.map(({ loadMs }) => loadMs)),
      readyMs: spread(all.map(ready)),
      memory: all.map(({ memory }) => memory).reduce((a, b) => (a.peak > b.peak ? a : b)),
    }
  }
  return {
    ours: side('ours'),
    peer: side('peer'),
    ratio: spread(pairs.map(({ ours, peer }) => middle(ours) / middle(peer))),
    disturbed: round(Math.max(...pairs.flatMap(({ ours, peer }) => [ours.disturbed, peer.disturbed]))),
    readyRatio: spread(pairs.map(({ ours, peer }) => ready(ours) / ready(peer))),
  }
}

interface Floors {
  roofs: Roofs
  bits: { ours: number; peer: number }
  ceilings: { ours: number; peer: number }
  flashAttention: boolean
  cold?: Measured
}

/** The figures of a cell, and a line that says them. */
export function compare(cell: Cell, summary: ReturnType<typeof summarise>, floors: Floors) {
  const isLoad = tasks[cell.task].kind === 'load'
  const side = (name: 'ours' | 'peer'): Side => {
    const { rate, loadMs, readyMs, memory } = summary[name]
    const ceiling = floors.ceilings[name]
    return {
      ...(isLoad
        ? { readyMs }
        : { tokensPerSecond: rate, ceiling: round(ceiling), fraction: round(rate.median / ceiling) }),
      bits: round(floors.bits[name]),
      loadMs,
      memory,
    }
  }
  const { cold } = floors
  const ours = { ...side('ours'), ...(cold && { cold: { readyMs: round(ready(cold)), peak: cold.memory.peak } }) }
  const peer = { ...side('peer'), flashAttention: floors.flashAttention }
  const { readGigabytesPerSecond, readSamples, bf16Gflops, int8Gops, int4Gops } = floors.roofs
  const figures = {
    disturbed: summary.disturbed,
    ratio: isLoad ? summary.readyRatio : summary.ratio,
    ...(isLoad && { memoryRatio: round(ours.memory.peak / peer.memory.peak) }),
    ours,
    peer,
    roofs: { readGigabytesPerSecond, readSamples, bf16Gflops, int8Gops, int4Gops },
  }
  return { figures, text: line(cellName(cell), figures) }
}

function line(
  name: string,
  {
    ratio,
    memoryRatio,
    ours,
    peer,
    disturbed,
  }: Pick<CellResult, 'ratio' | 'memoryRatio' | 'ours' | 'peer' | 'disturbed'>,
) {
  const percent = (value: number | undefined) => `${(100 * (value ?? 0)).toFixed(0)}%`
  const noise = disturbed > 0.1 ? `, disturbed ${disturbed.toFixed(2)}` : ''
  const times = `${ratio.median.toFixed(2)} [${ratio.low.toFixed(2)}, ${ratio.high.toFixed(2)}]${noise}`
  if (memoryRatio !== undefined) {
    const megabytes = (bytes: number) => (bytes / 1e6).toFixed(0)
    return (
      `${name.padEnd(30)} first token ${ours.readyMs?.median.toFixed(0)} ms (${ours.cold?.readyMs.toFixed(0)} without cache), peer ${peer.readyMs?.median.toFixed(0)} ms: ${times}; ` +
      `peak ${megabytes(ours.memory.peak)} MB, peer ${megabytes(peer.memory.peak)} MB: ${memoryRatio.toFixed(2)}`
    )
  }
  const rate = (side: Side) => `${side.tokensPerSecond?.median.toFixed(1)} (${percent(side.fraction)})`
  return `${name.padEnd(30)} ${rate(ours)} tokens/s, peer ${rate(peer)}: ${times}`
}
