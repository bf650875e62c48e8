import {
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { Qwen3Error } from '../lib/errors'
import { describeModel, expectedTensors, familyRows, modelsDirectory, nearNames } from '../lib/weights'
import { encodeSafetensors, randomTensors, smallConfig, smallMoeConfig, writeModel } from './helpers/safetensors'

const root = mkdtempSync(join(tmpdir(), 'qwen3-models-'))
afterAll(() => rmSync(root, { recursive: true }))

let count = 0
const fresh = () => join(root, `m${count++}`)

async function refusal(
  name: string | URL,
  signal?: AbortSignal,
): Promise<{ code: string; message: string; subject: string | undefined }> {
  try {
    await describeModel(name, signal ? { signal } : {})
  } catch (error) {
    if (error instanceof Qwen3Error) return { code: error.code, message: error.message, subject: error.subject }
    throw error
  }
  return { code: 'accepted', message: '', subject: undefined }
}

describe('names', () => {
  test('built-in models, from the package folder', async () => {
    for (const name of ['nano', 'nano-moe']) {
      const model = await describeModel(name)
      expect(model.kind).toBe('builtin')
      expect(model.directory).toBe(join(modelsDirectory(), name))
      expect(model.architecture).toBe(name === 'nano' ? 'qwen3' : 'qwen3_moe')
      expect(model.chatTemplate).toContain('<|im_start|>')
      expect(model.generationConfig.eosTokenIds.length).toBeGreaterThan(0)
      expect(model.tensors.length).toBe(expectedTensors(model.config).length)
    }
  })

  test('every random row, with its own seed in the key', async () => {
    for (const row of familyRows) {
      const model = await describeModel(`random:${row}`, { randomSeed: 7 })
      expect(model).toMatchObject({ kind: 'random', random: 7n, key: `random:${row}:7`, placeholder: '□', tensors: [] })
      if (row.startsWith('qwen3')) expect(model.config.vocab).toBe(151_936)
    }
    expect((await refusal('random:qwen3-0.5b')).message).toMatch(/Did you mean random:qwen3-0.6b/)
    for (const randomSeed of [-1, 1.5, NaN, '1' as unknown as number]) {
      await expect(describeModel('random:tiny', { randomSeed })).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        subject: 'randomSeed',
      })
    }
  })

  test('paths: absolute, relative, file URL as text and as URL, through a link', async () => {
    const folder = fresh()
    writeModel(folder)
    const link = `${folder}-link`
    symlinkSync(folder, link)
    const relative = `./${resolve(folder)
      .slice(1)
      .replace(/[^/]+/g, (part) => part)}`
    const here = process.cwd()
    process.chdir('/')
    try {
      for (const name of [folder, relative, pathToFileURL(folder).href, pathToFileURL(folder), link]) {
        const model = await describeModel(name)
        expect(model.kind).toBe('path')
        expect(model.directory).toBe(folder)
      }
    } finally {
      process.chdir(here)
    }
  })

  test('names that mean nothing list what was tried and near names', async () => {
    const missing = await refusal('nanoo')
    expect(missing.code).toBe('MODEL_NOT_FOUND')
    expect(missing.message).toMatch(/built-in models \(nano, nano-moe\).*random:<row>.*\.\/, \.\.\/ or \//)
    expect(missing.message).toMatch(/Did you mean nano/)
    expect((await refusal('Qwen/Qwen3-8B')).message).toMatch(/random:qwen3-8b/)
    expect((await refusal('zzzzzzzzzzzzzzz')).message).not.toMatch(/Did you mean/)
    expect((await refusal('./no/such/folder')).code).toBe('MODEL_NOT_FOUND')
    expect((await refusal('file:///no/such/folder')).code).toBe('MODEL_NOT_FOUND')
    expect((await refusal(`${join(root, 'x'.repeat(300))}`)).code).toBe('BAD_MODEL_FILE')
    for (const name of ['', '\0', './a\0b', 1, null, undefined, {}, ['nano']] as string[]) {
      expect((await refusal(name)).code).toBe('INVALID_ARGUMENT')
    }
    expect((await refusal('file://host/share')).code).toBe('INVALID_ARGUMENT')
    expect(nearNames('x'.repeat(1_000_000), ['nano'])).toEqual([])
  })

  test('a file instead of a folder, an empty folder', async () => {
    const file = fresh()
    writeFileSync(file, '')
    expect((await refusal(file)).code).toBe('BAD_MODEL_FILE')
    const empty = fresh()
    mkdirSync(empty)
    expect(await refusal(empty)).toMatchObject({ code: 'BAD_MODEL_FILE', subject: empty })
  })

  test('an aborted signal', async () => {
    const reason = new Error('enough')
    await expect(describeModel('nano', { signal: AbortSignal.abort(reason) })).rejects.toMatchObject({
      code: 'ABORTED',
      name: 'AbortError',
      cause: reason,
    })
    const late = new AbortController()
    const pending = describeModel('nano', { signal: late.signal })
    late.abort()
    await expect(pending).rejects.toMatchObject({ code: 'ABORTED' })
  })
})

describe('a folder', () => {
  test('dense and sparse models, in one file and in shards, f32, f16 and bf16', async () => {
    for (const config of [
      smallConfig(),
      smallConfig({ tie_word_embeddings: false }),
      smallMoeConfig({ num_hidden_layers: 2, mlp_only_layers: [1] }),
    ]) {
      for (const dtype of ['F32', 'F16', 'BF16'] as const) {
        const shapes: unknown[] = []
        for (const shards of [1, 3]) {
          const folder = fresh()
          const written = writeModel(folder, config, { dtype, shards })
          const model = await describeModel(folder)
          expect(model.tensors.map(({ name }) => name).sort()).toEqual(written.map(({ name }) => name).sort())
          for (const tensor of model.tensors) {
            expect(tensor.dtype).toBe(dtype.toLowerCase())
            expect(tensor.bytes).toBe(tensor.shape.reduce((a, b) => a * b, 1) * (dtype === 'F32' ? 4 : 2))
          }
          shapes.push(model.tensors.map(({ name, shape }) => [name, shape]))
        }
        expect(shapes[0]).toEqual(shapes[1])
      }
    }
  })

  test('the key changes with the files and not with the way to them', async () => {
    const folder = fresh()
    writeModel(folder)
    const { key } = await describeModel(folder)
    expect((await describeModel(pathToFileURL(folder))).key).toBe(key)
    utimesSync(join(folder, 'model.safetensors'), 1, 1)
    expect((await describeModel(folder)).key).not.toBe(key)
  })

  test('tensors without `model.` (the Embedding models)', async () => {
    const folder = fresh()
    const config = smallConfig({ architectures: ['Qwen3Model'] })
    writeModel(folder, config, {
      tensors: randomTensors(config).map((tensor) => ({ ...tensor, name: tensor.name.replace(/^model\./, '') })),
    })
    expect((await describeModel(folder)).tensors[0]!.name).toBe('model.embed_tokens.weight')
  })

  const withTensors = (
    change: (tensors: ReturnType<typeof randomTensors>) => ReturnType<typeof randomTensors>,
    config = smallConfig(),
  ) => {
    const folder = fresh()
    writeModel(folder, config, { tensors: change(randomTensors(config)) })
    return folder
  }
  const extra = (name: string) => (tensors: ReturnType<typeof randomTensors>) => [
    ...tensors,
    { name, dtype: 'F32' as const, shape: [2], values: new Float32Array(2) },
  ]

  test('every missing tensor is named', async () => {
    const config = smallMoeConfig({ num_experts: 2, tie_word_embeddings: false })
    for (const { name } of randomTensors(config)) {
      const folder = withTensors((tensors) => tensors.filter((tensor) => tensor.name !== name), config)
      expect(await refusal(folder)).toMatchObject({ code: 'BAD_MODEL_FILE', subject: name })
    }
  })

  test('every wrong shape is named', async () => {
    for (const { name } of randomTensors(smallConfig())) {
      const folder = withTensors((tensors) =>
        tensors.map((tensor) => (tensor.name === name ? { ...tensor, shape: [tensor.values.length, 1, 1] } : tensor)),
      )
      const { code, subject, message } = await refusal(folder)
      expect({ code, subject }).toEqual({ code: 'BAD_MODEL_FILE', subject: name })
      expect(message).toMatch(/expected shape \[.*\] from config.json, found \[/)
    }
  })

  test('extra tensors: harmless ones are ignored and listed, the others refused', async () => {
    const harmless = ['lm_head.weight', 'model.layers.0.self_attn.rotary_emb.inv_freq', 'score.weight', '__proto__']
    for (const name of harmless) expect((await describeModel(withTensors(extra(name)))).ignoredTensors).toEqual([name])
    const refused = [
      'model.layers.0.self_attn.q_proj.bias',
      'model.layers.0.mlp.up_proj.weight_scale_inv',
      'model.layers.0.mlp.shared_expert.up_proj.weight',
      'model.layers.0.self_attn.q_proj.lora_A.weight',
      'lm_head.bias',
      'model.norm.bias',
    ]
    for (const name of refused)
      expect(await refusal(withTensors(extra(name)))).toMatchObject({ code: 'UNSUPPORTED', subject: name })
    expect(await refusal(withTensors(extra('model.layers.1.mlp.up_proj.weight')))).toMatchObject({
      code: 'BAD_MODEL_FILE',
    })
  })

  test('element types that are not floats of 16 or 32 bits', async () => {
    const folder = fresh()
    const tensors = writeModel(folder)
    const file = encodeSafetensors(tensors)
    const text = Buffer.from(file).toString('latin1').replace('"BF16"', '"I16" ')
    writeFileSync(join(folder, 'model.safetensors'), Buffer.from(text, 'latin1'))
    expect(await refusal(folder)).toMatchObject({ code: 'UNSUPPORTED', subject: 'model.embed_tokens.weight' })
  })

  test('damaged JSON files', async () => {
    const files = ['config.json', 'generation_config.json', 'tokenizer_config.json']
    const contents = [
      '',
      '{',
      '[]',
      'null',
      '\u{feff}',
      '{"a":1,"a":2}',
      `{"a":${'['.repeat(100_000)}`,
      '{"eos_token_id": "x", "model_type": 1, "chat_template": 5}',
    ]
    for (const file of files) {
      for (const content of contents) {
        const folder = fresh()
        writeModel(folder)
        writeFileSync(join(folder, file), content)
        expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
      }
      const folder = fresh()
      writeModel(folder)
      writeFileSync(join(folder, file), Uint8Array.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))
      expect((await refusal(folder)).message).toMatch(/UTF-8/)
    }
  })

  test('a config of gigabytes is refused by its size', async () => {
    const folder = fresh()
    writeModel(folder)
    truncateSync(join(folder, 'config.json'), 3 * 2 ** 30)
    expect(await refusal(folder)).toMatchObject({ code: 'BAD_MODEL_FILE' })
  })

  test('generation_config: what it says is kept, beam search is refused, absent falls back to config.json', async () => {
    const folder = fresh()
    writeModel(folder)
    const say = (config: object) => writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(config))
    say({
      temperature: 0.5,
      top_p: 0.9,
      top_k: 5,
      min_p: 0.1,
      repetition_penalty: 1.1,
      max_new_tokens: 10,
      eos_token_id: [7, 7, 8],
    })
    expect((await describeModel(folder)).generationConfig).toEqual({
      temperature: 0.5,
      topP: 0.9,
      topK: 5,
      minP: 0.1,
      repetitionPenalty: 1.1,
      maxNewTokens: 10,
      eosTokenIds: [7, 8],
    })
    say({ do_sample: false })
    expect((await describeModel(folder)).generationConfig).toEqual({ temperature: 0, eosTokenIds: [1] })
    say({ num_beams: 4 })
    expect(await refusal(folder)).toMatchObject({ code: 'UNSUPPORTED', subject: 'num_beams' })
    for (const wrong of [
      { temperature: -1 },
      { top_p: 0 },
      { top_p: 2 },
      { top_k: 1.5 },
      { min_p: 'x' },
      { eos_token_id: -1 },
      { do_sample: 'no' },
    ]) {
      say(wrong)
      expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
    }
    rmSync(join(folder, 'generation_config.json'))
    expect((await describeModel(folder)).generationConfig).toEqual({ eosTokenIds: [1] })
  })

  test('templates: the jinja file goes before the config; lists have a default', async () => {
    const folder = fresh()
    writeModel(folder)
    expect((await describeModel(folder)).chatTemplate).toBeUndefined()
    writeFileSync(join(folder, 'chat_template.json'), JSON.stringify({ chat_template: 'J' }))
    expect((await describeModel(folder)).chatTemplate).toBe('J')
    const config = (chat_template: unknown) =>
      writeFileSync(
        join(folder, 'tokenizer_config.json'),
        JSON.stringify({ chat_template, eos_token: { content: '<e>' }, bos_token: null }),
      )
    config('A')
    expect(await describeModel(folder)).toMatchObject({ chatTemplate: 'A', templateVariables: { eos_token: '<e>' } })
    config([
      { name: 'tool_use', template: 'B' },
      { name: 'default', template: 'C' },
    ])
    expect((await describeModel(folder)).chatTemplate).toBe('C')
    config([{ name: 'tool_use', template: 'B' }])
    expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
    config('A')
    writeFileSync(join(folder, 'chat_template.jinja'), 'D')
    expect((await describeModel(folder)).chatTemplate).toBe('D')
    writeFileSync(join(folder, 'chat_template.jinja'), 'D'.repeat(1 << 20))
    expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
  })
})

describe('the index of a sharded model', () => {
  const sharded = (edit: (map: Record<string, unknown>) => unknown, whole = false) => {
    const folder = fresh()
    const tensors = writeModel(folder, smallConfig(), { shards: 2 })
    const map: Record<string, unknown> = {}
    tensors.forEach(({ name }, i) => {
      map[name] = `model-0000${(i % 2) + 1}-of-00002.safetensors`
    })
    const edited = edit(map)
    writeFileSync(
      join(folder, 'model.safetensors.index.json'),
      JSON.stringify(whole ? edited : { weight_map: edited === undefined ? map : edited }),
    )
    return folder
  }
  const first = 'model.embed_tokens.weight'

  test('control: unchanged, it loads', async () => {
    expect((await refusal(sharded(() => undefined))).code).toBe('accepted')
  })

  const cases: [string, (map: Record<string, unknown>) => unknown][] = [
    [
      'an absent shard',
      (map) => {
        map[first] = 'model-00009-of-00002.safetensors'
      },
    ],
    [
      'a tensor of the wrong shard',
      (map) => {
        map[first] = 'model-00002-of-00002.safetensors'
      },
    ],
    [
      'a tensor that no shard has',
      (map) => {
        map.ghost = 'model-00001-of-00002.safetensors'
      },
    ],
    [
      'a tensor that the index does not name',
      (map) => {
        delete map[first]
      },
    ],
    ['an empty map', () => ({})],
    ['no map', () => null],
    ['a list', () => []],
    [
      'a number for a shard',
      (map) => {
        map[first] = 5
      },
    ],
    [
      'an empty name',
      (map) => {
        map[first] = ''
      },
    ],
    [
      'the folder above',
      (map) => {
        map[first] = '../model-00001-of-00002.safetensors'
      },
    ],
    [
      'an absolute path',
      (map) => {
        map[first] = '/etc/passwd.safetensors'
      },
    ],
    [
      'a detour through a folder',
      (map) => {
        map[first] = 'a/../../x.safetensors'
      },
    ],
    [
      'a NUL byte',
      (map) => {
        map[first] = 'a\0.safetensors'
      },
    ],
    [
      'a file that is no weight file',
      (map) => {
        map[first] = 'config.json'
      },
    ],
    [
      'the folder itself',
      (map) => {
        map[first] = '.'
      },
    ],
  ]
  test.each(cases)('%s', async (_, edit) => {
    expect((await refusal(sharded(edit))).code).toBe('BAD_MODEL_FILE')
  })

  test.each([[null], [[]], [5], [{}], [{ weight_map: 'x' }]])('index = %o', async (index) => {
    expect((await refusal(sharded(() => index, true))).code).toBe('BAD_MODEL_FILE')
  })

  test('a truncated shard is named', async () => {
    const folder = sharded(() => undefined)
    const shard = join(folder, 'model-00002-of-00002.safetensors')
    truncateSync(shard, 100)
    expect(await refusal(folder)).toMatchObject({ code: 'BAD_MODEL_FILE', subject: shard })
  })
})

describe('links', () => {
  test('a file that is a link to another place is refused', async () => {
    for (const file of ['model.safetensors', 'config.json', 'generation_config.json']) {
      const folder = fresh()
      writeModel(folder)
      const elsewhere = `${folder}-${file}`
      renameSync(join(folder, file), elsewhere)
      symlinkSync(elsewhere, join(folder, file))
      const { code, message } = await refusal(folder)
      expect(code).toBe('BAD_MODEL_FILE')
      expect(message).toMatch(/outside its folder/)
    }
  })

  test('a link within the folder, and the cache layout of the Hugging Face hub, are fine', async () => {
    const folder = fresh()
    writeModel(folder)
    renameSync(join(folder, 'model.safetensors'), join(folder, 'weights.bin'))
    symlinkSync('weights.bin', join(folder, 'model.safetensors'))
    expect((await refusal(folder)).code).toBe('accepted')

    const repository = join(root, `models--org--name${count++}`)
    const snapshot = join(repository, 'snapshots', 'abc')
    writeModel(snapshot)
    mkdirSync(join(repository, 'blobs'))
    for (const file of ['config.json', 'model.safetensors']) {
      renameSync(join(snapshot, file), join(repository, 'blobs', file.length.toString(16)))
      symlinkSync(join('..', '..', 'blobs', file.length.toString(16)), join(snapshot, file))
    }
    expect((await refusal(snapshot)).code).toBe('accepted')
    rmSync(join(snapshot, 'config.json'))
    symlinkSync(join('..', '..', 'refs'), join(snapshot, 'config.json'))
    writeFileSync(join(repository, 'refs'), '{}')
    expect((await refusal(snapshot)).code).toBe('BAD_MODEL_FILE')
  })

  test('links in a circle, a folder and a pipe in place of the weights', async () => {
    const folder = fresh()
    writeModel(folder)
    const weights = join(folder, 'model.safetensors')
    rmSync(weights)
    symlinkSync(weights, weights)
    expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
    rmSync(weights)
    mkdirSync(weights)
    expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
    rmSync(weights, { recursive: true })
    const { execFileSync } = await import('node:child_process')
    execFileSync('mkfifo', [weights])
    expect((await refusal(folder)).code).toBe('BAD_MODEL_FILE')
  })
})
