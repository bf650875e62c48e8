// What both sides of the comparison share: prompts, clocks and memory. Plain JavaScript: these processes are measured, a
// compiler at run time would count.
import { readFileSync } from 'node:fs'

/**
 * A measurement that one process makes.
 * @typedef {object} Job
 * @property {string} model a folder or a file
 * @property {number} threads
 * @property {'load' | 'prefill' | 'decode'} kind
 * @property {number} context tokens of the prompt
 * @property {number} tokens generated after it
 * @property {number} batch sequences at once
 * @property {number} repeats
 * @property {number} vocab
 * @property {Record<string, unknown>} options of the engine
 */

/** Token ids that depend on `seed` alone (xorshift); no two seeds share a prefix. */
export function prompt(/** @type {number} */ length, /** @type {number} */ vocab, /** @type {number} */ seed) {
  const ids = new Array(length)
  let state = (seed * 2_654_435_761 + 1) >>> 0
  for (let i = 0; i < length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    ids[i] = 1000 + (state % (vocab - 2000))
  }
  return ids
}

/** Moments at which a sequence had so many tokens; between two of them its tokens came evenly. */
export class Track {
  /** @type {{ at: number, count: number }[]} */
  points = []
  add(/** @type {number} */ count, at = performance.now()) {
    this.points.push({ at, count })
  }
  countAt(/** @type {number} */ time) {
    const next = this.points.findIndex(({ at }) => at >= time)
    const b = this.points[next]
    const a = this.points[next - 1] ?? b
    return a === b ? b.count : a.count + ((b.count - a.count) * (time - a.at)) / (b.at - a.at)
  }
}

/** Tokens per second of all sequences together, while every one of them was generating. */
export function rate(/** @type {Track[]} */ tracks) {
  const begin = Math.max(...tracks.map(({ points }) => points[0].at))
  const end = Math.min(...tracks.map(({ points }) => points.at(-1).at))
  const tokens = tracks.reduce((sum, track) => sum + track.countAt(end) - track.countAt(begin), 0)
  return (1000 * tokens) / (end - begin)
}

/** Peak of this process, and what it holds now: of its own, and of mapped files. Bytes. */
export function memory() {
  const status = readFileSync('/proc/self/status', 'utf8')
  const field = (/** @type {string} */ name) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)[1])
  return { peak: field('VmHWM'), anonymous: field('RssAnon'), mapped: field('RssFile') }
}

/** The job of this process, from its first argument. @returns {Job} */
export const job = () => JSON.parse(process.argv[2])

/** The result, as the last line of the output, with the processor time of this process. */
export function report(/** @type {object} */ result) {
  const { user, system } = process.cpuUsage()
  process.stdout.write(`\n${JSON.stringify({ ...result, processorMs: (user + system) / 1000 })}\n`)
}
