import { spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type LoadOptions, Qwen3, type WeightFormat } from '../lib'
import { loadAddon } from '../lib/native'
import { defaultCacheFolder } from '../lib/weight-cache'
import { describeModel, estimateMemory } from '../lib/weights'
import { type CompiledLibrary, compileLibrary } from './helpers/library'
import { writeTinyModel } from './helpers/tiny-model'

const PROMPT = Int32Array.from({ length: 40 }, (_, i) => (i * 31 + 5) % 800)
const formats: WeightFormat[] = ['f32', 'bf16', 'int8', 'int4', 'int4-offset']

/** Loads, runs `use`, closes. */
async function withModel<T>(name: string, options: LoadOptions, use: (model: Qwen3) => Promise<T> | T): Promise<T> {
  const model = await Qwen3.load(name, options)
  try {
    return await use(model)
  } finally {
    await model.close()
  }
}

const logits = (name: string, options: LoadOptions) => withModel(name, options, (model) => model.logits(PROMPT))

const answer = (model: Qwen3) => model.chat('What is 12+30-7?', { seed: 1 }).result()

function divergence(p: Float32Array, q: Float32Array): number {
  const normalised = (x: Float32Array) => {
    const most = x.reduce((a, b) => Math.max(a, b))
    const sum = x.reduce((a, b) => a + Math.exp(b - most), 0)
    return Array.from(x, (v) => v - most - Math.log(sum))
  }
  const [a, b] = [normalised(p), normalised(q)]
  return a.reduce((sum, log, i) => sum + Math.exp(log) * (log - b[i]!), 0)
}

describe('formats', () => {
  test.each(['nano', 'nano-moe'])('%s: every format works, and is the closer the more bits it has', async (name) => {
    const exact = await logits(name, { weights: 'f32' })
    const found: Record<string, number> = {}
    for (const weights of formats) found[weights] = divergence(exact, await logits(name, { weights }))
    expect(found.f32).toBe(0)
    expect(found.bf16).toBeLessThan(1e-3)
    expect(found.int8).toBeLessThan(1e-2)
    expect(found['int4-offset']).toBeLessThan(0.5)
    expect(found.int4).toBeLessThan(0.5)
  })

  test('embedding and head have formats of their own; stats and info name them', async () => {
    const options: LoadOptions = { weights: 'int4', embeddingWeights: 'int8', headWeights: 'bf16' }
    await withModel('nano', options, async (model) => {
      expect(model.info).toMatchObject({ ...options, kvCache: 'bf16', weightCache: { state: 'off' } })
      expect(model.stats().weightFormats).toEqual({ weights: 'int4', embedding: 'int8', head: 'bf16' })
      expect((await answer(model)).text).not.toBe('')
    })
    await withModel('nano', { weights: 'int8', headWeights: 'auto' }, (model) => {
      expect(model.info).toMatchObject({ weights: 'int8', embeddingWeights: 'int8', headWeights: 'int8' })
    })
  })

  test('memory: as small as promised, and as inspect estimates', async () => {
    for (const name of ['nano', 'nano-moe', 'random:tiny', 'random:tiny-moe']) {
      const description = await describeModel(name)
      for (const weights of formats) {
        for (const headWeights of [weights, 'int8'] as const) {
          const estimate = estimateMemory(description, { contextLength: 64, weights, headWeights, kvCache: 'bf16' })
          await withModel(name, { weights, headWeights, contextLength: 64 }, (model) => {
            const ratio = model.stats().weightBytes / estimate.weightBytes
            // Panels of 32 columns and blocks of 64 inputs are filled up with zeros; the real models' shapes are multiples.
            expect(ratio, `${name} ${weights} ${headWeights}`).toBeGreaterThan(0.99)
            expect(ratio, `${name} ${weights} ${headWeights}`).toBeLessThan(1.1)
          })
        }
      }
    }
  })

  test.each(['nano', 'nano-moe'])('%s, int8 cache: close to f32, as small as inspect estimates', async (name) => {
    const description = await describeModel(name)
    const options = { weights: 'f32', contextLength: 256 } as const
    const exact = await logits(name, { ...options, kvCache: 'f32' })
    const { kvBytesPerToken } = estimateMemory(description, { ...options, kvCache: 'int8' })
    await withModel(name, { ...options, kvCache: 'int8' }, async (model) => {
      expect(model.info.kvCache).toBe('int8')
      expect(model.stats().kvCache.blockBytes).toBe(64 * kvBytesPerToken)
      const whole = await model.logits(PROMPT)
      expect(whole).not.toEqual(exact)
      expect(divergence(exact, whole)).toBeLessThan(1e-2)
      // What comes from the prefix cache, and what is appended to it, has the same bits.
      for (let end = 1; end < PROMPT.length; end += 7) await model.logits(PROMPT.subarray(0, end))
      expect(await model.logits(PROMPT)).toEqual(whole)
      expect((await answer(model)).text).not.toBe('')
    })
  })

  test('answers do not depend on threads, also with more threads than cores', async () => {
    for (const weights of ['bf16', 'int8'] as const) {
      const expected = await withModel('nano', { weights, threads: 1 }, answer)
      for (const threads of [2, 7, 64]) {
        const got = await withModel('nano', { weights, threads }, answer)
        expect(got.ids).toEqual(expected.ids)
      }
    }
  })

  test('models with other threads or another instruction set share one copy of the weights', async () => {
    const other: LoadOptions[] = [{ threads: 1 }, { threads: 2, isa: 'scalar' }]
    const size = { contextLength: 64, maxSequences: 1 }
    const first = await Qwen3.load('random:qwen3-0.6b', { ...size, weights: 'int8' })
    try {
      const before = process.memoryUsage.rss()
      for (const options of other) {
        const start = performance.now()
        await withModel('random:qwen3-0.6b', { ...size, weights: 'int8', ...options }, (model) => {
          expect(model.stats().weightBytes).toBe(first.stats().weightBytes)
          expect(performance.now() - start).toBeLessThan(1500)
          expect(process.memoryUsage.rss() - before).toBeLessThan(0.5 * model.stats().weightBytes)
        })
      }
    } finally {
      await first.close()
    }
  }, 60_000)
})

describe('isa', () => {
  test('the levels of this machine work; others are refused by name', async () => {
    const { levels } = loadAddon().cpuInfo()
    expect(levels).toContain('scalar')
    const expected = await logits('nano', { isa: 'scalar', weights: 'f32' })
    for (const isa of ['auto', 'scalar', 'avx2', 'avxvnni', 'avx512', 'avx512vnni', 'avx512bf16', 'amx', 'neon']) {
      const loading = logits('nano', { isa, weights: 'f32' })
      if (isa === 'auto' || levels.includes(isa)) {
        expect(divergence(expected, await loading)).toBeLessThan(1e-4)
      } else {
        await expect(loading).rejects.toMatchObject({
          code: 'UNSUPPORTED',
          subject: 'isa',
          message: expect.stringContaining(isa),
        })
      }
    }
    await expect(Qwen3.load('nano', { isa: 'sse9' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      subject: 'isa',
    })
  })
})

describe('weightCache', () => {
  let folder: string
  let library: CompiledLibrary
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'qwen3-cache-test-'))
    library = compileLibrary()
  })
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true })
    library.remove()
  })
  const fresh = (name: string) => join(folder, name)

  test('the first load writes, the next maps; answers are equal', async () => {
    const weightCache = fresh('plain')
    for (const weights of ['bf16', 'int8', 'int4-offset'] as const) {
      const expected = await withModel('nano', { weights }, answer)
      for (const state of ['written', 'mapped', 'mapped']) {
        await withModel('nano', { weights, weightCache }, async (model) => {
          expect(model.info.weightCache).toEqual({ state, path: expect.stringContaining(weightCache) })
          expect((await answer(model)).ids).toEqual(expected.ids)
        })
      }
    }
    expect(readdirSync(weightCache)).toHaveLength(3)
  })

  test('false and the default write nothing; true goes where XDG says', async () => {
    for (const options of [{}, { weightCache: false }]) {
      await withModel('nano', options, (model) => expect(model.info.weightCache).toEqual({ state: 'off' }))
    }
    expect(defaultCacheFolder({ XDG_CACHE_HOME: '/x' })).toBe('/x/qwen3/weights')
    expect(defaultCacheFolder({ XDG_CACHE_HOME: 'relative' })).toMatch(/\.cache\/qwen3\/weights$/)
    expect(defaultCacheFolder({})).toMatch(/\.cache\/qwen3\/weights$/)
    const output = inChild(
      `
      const model = await Qwen3.load('nano', { weightCache: true })
      console.log(JSON.stringify(model.info.weightCache))`,
      { XDG_CACHE_HOME: fresh('xdg') },
    )
    const { state, path } = JSON.parse(output.stdout)
    expect(state).toBe('written')
    expect(path.startsWith(join(fresh('xdg'), 'qwen3', 'weights'))).toBe(true)
    expect(existsSync(path)).toBe(true)
  })

  test('damaged files are written again', async () => {
    const weightCache = fresh('damaged')
    const load = () =>
      withModel('nano', { weightCache }, async (model) => [model.info.weightCache.state, (await answer(model)).text])
    const [, expected] = await load()
    const file = join(weightCache, readdirSync(weightCache)[0]!)
    const good = readFileSync(file)
    const flipped = Buffer.from(good)
    flipped[good.length >> 1]! ^= 1
    const version = Buffer.from(good)
    version[8]! += 1
    for (const bytes of [good.subarray(0, -4096), flipped, version, Buffer.alloc(0), Buffer.from('no weights')]) {
      rmSync(file)
      writeFileSync(file, bytes)
      expect(await load()).toEqual(['written', expected])
      expect(readFileSync(file).equals(good)).toBe(true)
      expect(await load()).toEqual(['mapped', expected])
    }
  })

  test('a model whose files changed is packed again', async () => {
    const tiny = writeTinyModel()
    const weightCache = fresh('changed')
    const state = () => withModel(tiny.directory, { weightCache }, (model) => model.info.weightCache.state)
    try {
      expect(await state()).toBe('written')
      expect(await state()).toBe('mapped')
      const file = join(tiny.directory, 'model.safetensors')
      const { atime } = statSync(file)
      utimesSync(file, atime, new Date(Date.now() + 5000))
      expect(await state()).toBe('written')
      expect(await state()).toBe('mapped')
      expect(readdirSync(weightCache)).toHaveLength(1)
    } finally {
      tiny.remove()
    }
  })

  test('where nothing can be written there is one warning, and the model works', () => {
    const place = fresh('file')
    writeFileSync(place, '')
    // No folder can be made below a file; and a limit on the size of files, as a full disk would say it.
    const cases: [string, string[]][] = [
      [join(place, 'below'), []],
      [fresh('limited'), ['-c', 'ulimit -f 100; exec "$0" "$@"']],
    ]
    for (const [weightCache, shell] of cases) {
      const { stdout, stderr } = inChild(
        `for (let i = 0; i < 2; i++) {
          const model = await Qwen3.load('nano', { weightCache: ${JSON.stringify(weightCache)} })
          const { text } = await model.chat('What is 12+30-7?', { seed: 1 }).result()
          console.log(model.info.weightCache.state, text)
          await model.close()
        }`,
        {},
        shell,
      )
      expect(stdout).toMatch(/^failed .*35.*\nfailed .*35.*\n$/)
      expect(stderr.match(/Qwen3Warning/g)).toHaveLength(1)
      expect(stderr).toMatch(/could not be kept in a file: cannot (make the folder|reserve space)/)
      if (existsSync(weightCache)) expect(readdirSync(weightCache)).toEqual([])
    }
  })

  test('processes that load at once: each works, one whole file is left', async () => {
    const weightCache = fresh('together')
    mkdirSync(weightCache)
    const script = `
      const { Qwen3 } = require(${JSON.stringify(library.index)})
      const { Worker, isMainThread } = require('node:worker_threads')
      const run = async () => {
        const model = await Qwen3.load('nano', { weightCache: ${JSON.stringify(weightCache)} })
        const { text } = await model.chat('What is 12+30-7?', { seed: 1 }).result()
        await model.close()
        if (!text.includes('35')) throw new Error(text)
      }
      run().catch((error) => { console.error(error); process.exit(1) })`
    const { spawn } = await import('node:child_process')
    const children = Array.from({ length: 6 }, () => spawn(process.execPath, ['-e', script], { stdio: 'inherit' }))
    const codes = await Promise.all(children.map((child) => new Promise((resolve) => child.on('exit', resolve))))
    expect(codes).toEqual([0, 0, 0, 0, 0, 0])
    expect(readdirSync(weightCache)).toHaveLength(1)
    await withModel('nano', { weightCache }, (model) => expect(model.info.weightCache.state).toBe('mapped'))
  })

  test('an aborted load leaves nothing', async () => {
    const weightCache = fresh('aborted')
    for (let reports = 1; reports < 200; reports *= 3) {
      const controller = new AbortController()
      let seen = 0
      const loading = Qwen3.load('random:qwen3-0.6b', {
        weightCache,
        contextLength: 64,
        weights: 'int8',
        signal: controller.signal,
        onProgress: () => {
          if (++seen === reports) controller.abort()
        },
      })
      await expect(loading).rejects.toMatchObject({ code: 'ABORTED' })
      expect(existsSync(weightCache) ? readdirSync(weightCache) : []).toEqual([])
    }
  }, 60_000)

  /** Runs a script around the emitted library, with `Qwen3` in scope. */
  function inChild(body: string, env: NodeJS.ProcessEnv = {}, shell: string[] = []) {
    const script = `const { Qwen3 } = require(${JSON.stringify(library.index)})
      ;(async () => { ${body} })().catch((error) => { console.error(error); process.exit(1) })`
    const command = [process.execPath, '-e', script]
    const [file, ...args] = shell.length > 0 ? ['sh', ...shell, ...command] : command
    const result = spawnSync(file!, args, { encoding: 'utf8', env: { ...process.env, ...env } })
    expect(result.status, result.stderr).toBe(0)
    return result
  }
})
