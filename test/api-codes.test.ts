import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Qwen3, Qwen3Error, type Qwen3ErrorCode } from '../lib'
import { errorCodes } from '../lib/errors'
import { compileLibrary } from './helpers/library'
import { writeTinyModel } from './helpers/tiny-model'

let model: Qwen3

beforeAll(async () => {
  model = await Qwen3.load('nano')
})
afterAll(() => model.close())

const root = join(__dirname, '..')

/** A public call for every code but INTERNAL, which means a defect. */
const raise: Record<Exclude<Qwen3ErrorCode, 'INTERNAL'>, () => Promise<unknown>> = {
  MODEL_NOT_FOUND: () => Qwen3.load('nanoo'),
  async BAD_MODEL_FILE() {
    const tiny = writeTinyModel()
    try {
      const file = join(tiny.directory, 'model.safetensors')
      writeFileSync(file, readFileSync(file).subarray(0, -100))
      return await Qwen3.load(tiny.directory)
    } finally {
      tiny.remove()
    }
  },
  UNSUPPORTED: () => Qwen3.load('nano', { device: 'cuda' }),
  INVALID_ARGUMENT: async () => model.chat('x', { topP: 0 }),
  OUT_OF_MEMORY: () => Qwen3.load('nano', { kvCacheBytes: 2 ** 50 }),
  CONTEXT_OVERFLOW: () => model.generate(new Int32Array(3000)).result(),
  ABORTED: () => model.chat('x', { signal: AbortSignal.abort() }).result(),
  async BUSY() {
    const busy = await Qwen3.load('nano', { maxSequences: 1, maxWaiting: 5, contextLength: 64 })
    const streams = Array.from({ length: 10 }, () => busy.generate([1], { maxTokens: 50, ignoreEos: true }))
    try {
      return await streams.at(-1)!.result()
    } finally {
      await busy.close()
    }
  },
  async CLOSED() {
    const closed = await Qwen3.load('nano')
    await closed.close()
    return closed.chat('x')
  },
  async STREAM_CONSUMED() {
    const stream = model.generate([1], { maxTokens: 1 })
    stream[Symbol.asyncIterator]()
    return stream[Symbol.asyncIterator]()
  },
  async ADDON_NOT_FOUND() {
    throw loadWithoutAddon()
  },
}

/** The error of an installed package that has neither a prebuilt nor a built addon. */
function loadWithoutAddon(): Error {
  const library = compileLibrary()
  const folder = mkdtempSync(join(tmpdir(), 'qwen3-no-addon-'))
  try {
    cpSync(join(library.index, '..', '..'), join(folder, 'dist'), { recursive: true })
    cpSync(join(root, 'package.json'), join(folder, 'package.json'))
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    mkdirSync(join(folder, 'models'))
    const script = `require(${JSON.stringify(join(folder, 'dist/lib/index.js'))}).Qwen3.load('nano').catch(
      ({ name, code, message, subject }) => console.log(JSON.stringify({ name, code, message, subject })))`
    const env = { ...process.env, QWEN3_ADDON_PATH: undefined } // which would stand in for the missing one
    const output = execFileSync(process.execPath, ['-e', script], { encoding: 'utf8', env })
    const { code, message, subject } = JSON.parse(output)
    return new Qwen3Error(code, message, { subject })
  } finally {
    rmSync(folder, { recursive: true, force: true })
    library.remove()
  }
}

describe('every code', () => {
  test.each(Object.entries(raise))('%s is raised by a public call, with a sentence', async (code, call) => {
    const error = await call().then(
      () => undefined,
      (caught: unknown) => caught as Qwen3Error,
    )
    expect(error).toBeInstanceOf(Qwen3Error)
    expect(error!.code).toBe(code)
    expect(error!.message).toMatch(/^\S.{15,}/s)
    expect(error!.stack).toContain(error!.message.split('\n')[0])
  })

  test('is in docs/errors.md', () => {
    const documented = [...readFileSync(join(root, 'docs/errors.md'), 'utf8').matchAll(/^### (\w+)/gm)].map(
      (match) => match[1],
    )
    expect(documented.toSorted()).toEqual(Object.keys(errorCodes).toSorted())
  })

  test('a missing addon names the platform and the command that helps', () => {
    const error = loadWithoutAddon()
    expect(error.message).toContain(`${process.platform}-${process.arch}`)
    expect(error.message).toContain('npx qwen3 build')
  })

  test('the model has survived all of it', async () => {
    expect((await model.generate([1], { maxTokens: 2, ignoreEos: true }).result()).ids).toHaveLength(2)
  })
})
