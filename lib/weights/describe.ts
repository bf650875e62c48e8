import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { Qwen3Error, received, throwIfAborted } from '../errors'
import type { NativeConfig, NativeTensor, NativeYarn } from '../native'
import { readCheckpoint } from './checkpoint'
import { type ModelConfig, parseConfig } from './config'
import { familyConfig } from './family'
import { type FileStamp, ModelDirectory } from './files'
import { type GenerationConfig, readGenerationConfig, readTemplateFiles, type TemplateFiles } from './generation'
import { parseJsonObject } from './json'
import { countParameters } from './memory'
import { modelsDirectory, resolveName } from './names'
import { matchTensors } from './tensors'

/** All that is known about a model before a byte of its tensors is read. */
export interface ModelDescription extends TemplateFiles {
  /** As asked for. */
  name: string
  kind: 'builtin' | 'random' | 'path'
  architecture: 'qwen3' | 'qwen3_moe'
  /** Real path of the folder with the tokenizer's files; nano's for `random:` models. */
  directory: string
  config: NativeConfig
  /** The config's own YaRN scaling. */
  yarn?: NativeYarn
  maxPositionEmbeddings: number
  /** Exactly the tensors that the engine needs; empty for `random:` models. */
  tensors: NativeTensor[]
  /** Tensors of the checkpoint that the forward pass never reads. */
  ignoredTensors: string[]
  /** Fields of config.json without a known effect. */
  ignoredFields: string[]
  /** Identity of the weights: equal keys share packed weights. Changes when a file's path, size or time changes. */
  key: string
  /** Seed of a `random:` model's weights. */
  random?: bigint
  /**
   * Text of ids that have no token. The random models keep the family's 151,936 ids over nano's small vocabulary, and most
   * of what they say lies beyond it: each such id reads as one `□`, so that streams, stop strings and usage stay testable.
   */
  placeholder?: string
  generationConfig: GenerationConfig
  parameters: number
  /** Bytes of the weight files. */
  fileBytes: number
}

export interface DescribeOptions {
  signal?: AbortSignal
  /** Seed of the weights of a `random:` model. Default 0. */
  randomSeed?: number
}

const MAX_CONFIG = 4 << 20
const PLACEHOLDER = '□'

/**
 * Finds a model and checks everything about its files but the tensors' bytes: configuration, headers, sizes, names and
 * shapes. Throws `MODEL_NOT_FOUND`, `BAD_MODEL_FILE` or `UNSUPPORTED`.
 */
export async function describeModel(name: string | URL, options: DescribeOptions = {}): Promise<ModelDescription> {
  const { signal, randomSeed = 0 } = options
  if (!Number.isSafeInteger(randomSeed) || randomSeed < 0) {
    throw new Qwen3Error(
      'INVALID_ARGUMENT',
      `randomSeed: expected a whole number from 0, received ${received(randomSeed)}.`,
      { subject: 'randomSeed' },
    )
  }
  throwIfAborted(signal)
  const resolved = await resolveName(name)
  throwIfAborted(signal)
  const shown = name instanceof URL ? name.href : name
  if (resolved.kind === 'random') return describeRandom(shown, resolved.row, randomSeed)
  const directory = await ModelDirectory.open(resolved.directory)
  const { config, stamp } = await readConfig(directory)
  const texts = await readTexts(directory, config)
  throwIfAborted(signal)
  const checkpoint = await readCheckpoint(directory, signal)
  throwIfAborted(signal)
  const matched = await matchTensors(config.native, checkpoint.tensors, directory.root)
  return {
    name: shown,
    kind: resolved.kind,
    directory: directory.root,
    ...fromConfig(config),
    tensors: matched.tensors,
    ignoredTensors: matched.ignored,
    key: weightsKey(directory.root, [stamp, ...checkpoint.files]),
    ...texts,
    fileBytes: checkpoint.fileBytes,
  }
}

async function describeRandom(name: string, row: string, seed: number): Promise<ModelDescription> {
  const directory = await ModelDirectory.open(join(modelsDirectory(), 'nano'))
  const { config: nano } = await readConfig(directory)
  const native = familyConfig(row, nano.native.vocab)!
  const config: ModelConfig = {
    architecture: native.experts > 0 ? 'qwen3_moe' : 'qwen3',
    native,
    maxPositionEmbeddings: native.nativeWindow,
    eosTokenIds: nano.eosTokenIds,
    ignoredFields: [],
  }
  return {
    name,
    kind: 'random',
    directory: directory.root,
    ...fromConfig(config),
    tensors: [],
    ignoredTensors: [],
    key: `random:${row}:${seed}`,
    random: BigInt(seed),
    placeholder: PLACEHOLDER,
    ...(await readTexts(directory, config)),
    fileBytes: 0,
  }
}

async function readConfig(directory: ModelDirectory): Promise<{ config: ModelConfig; stamp: FileStamp }> {
  const file = await directory.readText('config.json', MAX_CONFIG)
  if (file === undefined) {
    throw new Qwen3Error('BAD_MODEL_FILE', `${directory.root}: config.json is missing; is this a model folder?`, {
      subject: directory.root,
    })
  }
  return { config: parseConfig(await parseJsonObject(file.text, file.stamp.path), file.stamp.path), stamp: file.stamp }
}

async function readTexts(directory: ModelDirectory, config: ModelConfig) {
  return {
    generationConfig: await readGenerationConfig(directory, config.eosTokenIds),
    ...(await readTemplateFiles(directory)),
  }
}

function fromConfig(config: ModelConfig) {
  return {
    architecture: config.architecture,
    config: config.native,
    ...(config.yarn && { yarn: config.yarn }),
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    ignoredFields: config.ignoredFields,
    parameters: countParameters(config.native),
  }
}

function weightsKey(root: string, files: FileStamp[]): string {
  const hash = createHash('sha256')
  for (const { path, size, mtimeNs } of files) hash.update(`${path}\0${size}\0${mtimeNs}\0`)
  return `${root}:${hash.digest('hex').slice(0, 32)}`
}
