/** Hostile input: linear work, bounded stack, and an event loop that goes on turning. Work is counted where it can be. */
import { beforeAll, describe, expect, test } from 'vitest'
import { Tokenizer } from '../../lib/tokenizer'
import { LongMerge } from '../../lib/tokenizer/merge'
import { Vocabulary } from '../../lib/tokenizer/vocab'
import { hostileStrings, naturalStrings, Random } from './corpus'
import { loadBoth, QWEN3, rustIds } from './models'

let ours: Tokenizer
beforeAll(async () => {
  ours = await Tokenizer.load(QWEN3)
})

const repeated = (text: string) => (length: number) => text.repeat(Math.ceil(length / text.length)).slice(0, length)
const randomOf = (alphabet: string) => (length: number) => {
  const random = new Random(41)
  let text = ''
  while (text.length < length) text += alphabet[random.below(alphabet.length)]
  return text
}

/** Each makes a text of `length` units that is one long word, one long run, or one long segment of NFC. */
const SHAPES: [string, (length: number) => string][] = [
  ['one letter', repeated('a')],
  ['two letters', repeated('ab')],
  ['random letters', randomOf('abcdefgh')],
  ['spaces', repeated(' ')],
  ['spaces before a letter', (n) => `${' '.repeat(n - 1)}a`],
  ['newlines and spaces', repeated('\n  ')],
  ['a newline, then spaces', (n) => `\n${' '.repeat(n - 1)}`],
  ['digits', repeated('7')],
  ['punctuation', repeated('=')],
  ['apostrophes', repeated("'")],
  ['beginnings of control strings', repeated('<|im_')],
  ['opening brackets', repeated('<')],
  ['Chinese without spaces', randomOf('的一是不了人我在有他这中大来上')],
  ['emoji', repeated('👍')],
  ['half pairs', repeated('\ud83d')],
  ['combining marks in reverse order', repeated('\u0301\u0323')],
  ['a letter and one class of marks', (n) => `e${'\u0323'.repeat(n - 1)}`],
  ['conjoining jamo', repeated('\u1100\u1161\u11a8')],
]

describe('a million characters', () => {
  test.each(SHAPES)('%s', async (_name, make) => {
    const text = make(1_000_000)
    const ids = ours.encode(text, { parseSpecial: true })
    expect(ids.length).toBeGreaterThan(0)
    expect(ids.length).toBeLessThanOrEqual(4 * text.length)
    expect(ours.decode(ids).length).toBeGreaterThan(0)
  })

  test('work grows in proportion: four times the text takes at most five times the steps', () => {
    // A step is a bounded piece of work (see below), so their number is the work without the noise of a clock.
    const steps = (text: string) => {
      const all = stepsOf(text)
      let count = 0
      while (!all.next().done) count++
      return count
    }
    for (const [name, make] of SHAPES) {
      const short = steps(make(60_000))
      const long = steps(make(240_000))
      expect(long, name).toBeLessThan(5 * short + 20)
    }
  })
})

/** The stepwise path of encodeAsync. */
function stepsOf(text: string): Iterator<undefined, Int32Array> {
  const { encoder } = ours as unknown as {
    encoder: { steps(text: string, spans: object): Iterator<undefined, Int32Array> }
  }
  return encoder.steps(text, { parseSpecial: true, literal: [] })
}

test('merging a long word takes n log n steps', () => {
  const vocabulary = (ours as unknown as { vocabulary: Vocabulary }).vocabulary
  expect(vocabulary).toBeInstanceOf(Vocabulary)
  const steps = (length: number, byteAt: (i: number) => number) => {
    const word = new LongMerge(
      vocabulary,
      Uint8Array.from({ length }, (_, i) => byteAt(i)),
      length,
    )
    word.run(Number.POSITIVE_INFINITY)
    return word.steps
  }
  for (const byteAt of [() => 0x61, (i: number) => 0x61 + (i % 2), (i: number) => 0x61 + ((i * i) % 17)]) {
    for (const length of [1000, 30_000, 300_000]) {
      expect(steps(length, byteAt)).toBeLessThan(6 * length * Math.log2(length))
    }
  }
})

describe('encodeAsync', () => {
  test('gives the ids of encode', async () => {
    const texts = [...naturalStrings(42, 1), ...hostileStrings(43, 150), ...SHAPES.map(([, make]) => make(6000))]
    const random = new Random(44)
    const joined = Array.from({ length: 20 }, () =>
      Array.from({ length: 400 }, () => random.pick(texts).slice(0, 900)).join(''),
    )
    for (const text of [...texts, ...joined]) {
      for (const parseSpecial of [false, true]) {
        expect(await ours.encodeAsync(text, { parseSpecial })).toEqual(ours.encode(text, { parseSpecial }))
      }
    }
    const literal = [3, 9]
    const text = 'abc<think>\n<think>'
    const options = { parseSpecial: true, literal }
    expect(await ours.encodeAsync(text, options)).toEqual(ours.encode(text, options))
  })

  test('several at once do not disturb one another', async () => {
    const texts = SHAPES.map(([, make]) => make(20_000))
    const results = await Promise.all(texts.map((text) => ours.encodeAsync(text, { parseSpecial: true })))
    results.forEach((ids, i) => {
      expect(ids).toEqual(ours.encode(texts[i]!, { parseSpecial: true }))
    })
  })

  test('no step is long: the event loop turns often', () => {
    for (const [name, make] of SHAPES) {
      const steps = stepsOf(make(300_000))
      let count = 0
      let long = 0
      let whole = 0
      let longest = 0
      for (let done = false; !done; count++) {
        // Processor time, which other processes do not lengthen; compilation and garbage collection are in it.
        const before = process.cpuUsage()
        done = steps.next().done === true
        const { user, system } = process.cpuUsage(before)
        const took = (user + system) / 1000
        whole += took
        longest = Math.max(longest, took)
        if (took > 1) long++
      }
      expect(count, name).toBeGreaterThan(20)
      expect(long, `${name}: steps over a millisecond`).toBeLessThan(count / 10)
      expect(longest, `${name}: longest step in ms`).toBeLessThan(Math.max(40, whole / 4))
    }
  })

  test('stops at its signal', async () => {
    const controller = new AbortController()
    const call = ours.encodeAsync(randomOf('abcdefgh')(3_000_000), { signal: controller.signal })
    setTimeout(() => controller.abort(new Error('enough')), 5)
    await expect(call).rejects.toMatchObject({ code: 'ABORTED', name: 'AbortError' })
    await expect(ours.encodeAsync('a', { signal: AbortSignal.abort() })).rejects.toMatchObject({ code: 'ABORTED' })
  })

  test('refuses what is no string', async () => {
    await expect(ours.encodeAsync(5 as unknown as string)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
  })
})

test('long hostile texts have the ids of the oracle', async () => {
  const { rust } = await loadBoth(QWEN3)
  const texts = SHAPES.map(([, make]) => make(1500))
  const expected = await rustIds(rust, texts)
  texts.forEach((text, i) => {
    expect([...ours.encode(text, { parseSpecial: true })], SHAPES[i]![0]).toEqual(expected[i])
  })
})
