/** `qwen3 inspect`: what a model is, and what it takes to run it. Nothing is loaded. */
import { freemem } from 'node:os'
import type { Command } from 'commander'
import { loadAddon } from '../lib/native'
import { describeModel, estimateMemory, type ModelDescription } from '../lib/weights'
import { addWeightFlags, examples, kvCacheFlag, type LoadFlags, positiveInteger } from './common/flags'
import { styled } from './common/terminal'

interface InspectFlags extends Pick<LoadFlags, 'weights' | 'embeddingWeights' | 'headWeights' | 'kvCache'> {
  context?: number
  sequences: number
  tensors?: boolean
  devices?: boolean
  json?: boolean
}

export function addInspect(program: Command): void {
  const command = program
    .command('inspect')
    .summary('sizes, layers, formats and memory of a model')
    .description(
      'Reads the headers of a model and says what it is and how much memory it needs. Weights are not loaded.',
    )
    .argument('[model]', 'nano, nano-moe, random:<row>, or the path of a model directory', 'nano')
    .option('--context <tokens>', "context length to plan for; default: the model's own window", positiveInteger)
    .option('--sequences <n>', 'conversations at once', positiveInteger, 1)
    .option('--tensors', 'list every tensor')
    .option('--devices', 'list the processor and the GPUs instead of a model')
    .option('--json', 'print one JSON object')
    .action(inspect)
  addWeightFlags(command).addOption(kvCacheFlag())
  examples(command, [
    ['qwen3 inspect ./Qwen3-0.6B', 'what is it, does it fit?'],
    ['qwen3 inspect random:qwen3-8b --context 131072', 'plan before downloading'],
    ['qwen3 inspect random:qwen3-8b --weights int4 --head-weights int8', 'memory of one choice of formats'],
    ['qwen3 inspect --devices', 'what can compute here?'],
    ['qwen3 inspect nano-moe --tensors', 'names, shapes and types of all tensors'],
  ])
}

const formatsListed = ['bf16', 'int8', 'int4-offset', 'int4', 'f32'] as const

async function inspect(name: string, flags: InspectFlags): Promise<void> {
  if (flags.devices) return listDevices(flags.json === true)
  const model = await describeModel(name)
  const context = flags.context ?? model.config.nativeWindow
  const given = (format: LoadFlags['weights']) => (format === 'auto' ? undefined : format)
  const [weights, embeddingWeights, headWeights] = [flags.weights, flags.embeddingWeights, flags.headWeights].map(given)
  const kvCache = flags.kvCache === 'auto' ? undefined : flags.kvCache
  const listed = flags.weights === undefined ? formatsListed : ([weights ?? 'bf16'] as const)
  const memory = listed.map((format) => ({
    format,
    ...(embeddingWeights && { embeddingWeights }),
    ...(headWeights && { headWeights }),
    ...estimateMemory(model, {
      contextLength: context,
      weights: format,
      ...(embeddingWeights && { embeddingWeights }),
      ...(headWeights && { headWeights }),
      kvCache: kvCache ?? (format === 'f32' ? 'f32' : 'bf16'),
      sequences: flags.sequences,
    }),
  }))
  if (flags.json) {
    const { config } = model
    const { moeLayers, ...rest } = config
    const tensors = flags.tensors ? { tensors: model.tensors } : {}
    const summary = {
      ...about(model),
      config: { ...rest, moeLayers: [...moeLayers] },
      contextLength: context,
      memory,
      ...tensors,
    }
    process.stdout.write(`${JSON.stringify(summary)}\n`)
    return
  }
  const out = process.stdout
  const row = (label: string, value: string) => out.write(`${styled(out, 'bold', label.padEnd(20))}${value}\n`)
  for (const [label, value] of rows(model)) row(label, value)
  out.write('\n')
  row(
    'memory',
    `at ${context.toLocaleString('en')} tokens of context${flags.sequences > 1 ? `, ${flags.sequences} conversations` : ''}`,
  )
  for (const { format, weightBytes, kvBytesPerToken, kvCacheBytes, totalBytes } of memory)
    row(
      `  ${format}`,
      `${size(totalBytes)} = weights ${size(weightBytes)} + KV cache ${size(kvCacheBytes)} (${size(kvBytesPerToken)} a token)`,
    )
  row('  available now', size(freemem()))
  if (flags.tensors)
    for (const { name: tensor, dtype, shape, bytes } of model.tensors)
      out.write(`${tensor}  ${dtype} [${shape.join(', ')}]  ${size(bytes)}\n`)
}

function listDevices(json: boolean): void {
  const addon = loadAddon()
  const cpu = addon.cpuInfo()
  const cuda = addon.cudaReport()
  if (json) {
    process.stdout.write(`${JSON.stringify({ cpu, cuda })}\n`)
    return
  }
  const out = process.stdout
  const row = (label: string, text: string) => out.write(`${styled(out, 'bold', label.padEnd(10))}${text}\n`)
  row('cpu', `${cpu.physicalCores} cores, kernels for ${cpu.levels.join(', ')}; ${size(cpu.availableBytes)} available`)
  for (const device of cuda.devices) {
    const { index, name, computeMajor, computeMinor, multiprocessors, memoryBytes, freeBytes, driver, reason } = device
    const about = `${name}, compute capability ${computeMajor}.${computeMinor}, ${multiprocessors} multiprocessors`
    const memory = `${size(freeBytes)} of ${size(memoryBytes)} free, driver for CUDA ${driver}`
    row(`cuda:${index}`, `${about}; ${memory}${reason === '' ? '' : `; cannot be used: ${reason}`}`)
  }
  if (cuda.devices.length === 0) row('cuda', `none: ${cuda.reason}`)
}

function about(model: ModelDescription) {
  return {
    name: model.name,
    architecture: model.architecture,
    parameters: model.parameters,
    fileBytes: model.fileBytes,
    formats: formats(model),
    maxPositionEmbeddings: model.maxPositionEmbeddings,
    ignoredTensors: model.ignoredTensors,
    chatTemplate: model.chatTemplate !== undefined,
    generationConfig: model.generationConfig,
  }
}

/** How many tensors there are of each element type. */
function formats(model: ModelDescription): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { dtype } of model.tensors) counts[dtype] = (counts[dtype] ?? 0) + 1
  return counts
}

function rows(model: ModelDescription): [string, string][] {
  const { config } = model
  const sparse = config.moeLayers.reduce((sum, flag) => sum + flag, 0)
  const stored = Object.entries(formats(model)).map(([dtype, count]) => `${dtype} (${count} tensors)`)
  const list: [string, string][] = [
    ['model', `${model.name}, ${model.architecture}, ${config.tiedEmbeddings ? 'tied' : 'untied'} embeddings`],
    ['parameters', count(model.parameters)],
    [
      'files',
      model.kind === 'random' ? 'none: seeded random weights' : `${size(model.fileBytes)}, ${stored.join(', ')}`,
    ],
    ['layers', `${config.layers}, hidden ${config.hidden}`],
    ['attention', `${config.qHeads} query heads, ${config.kvHeads} key/value heads, head_dim ${config.headDim}`],
  ]
  const dense = config.layers - sparse
  if (dense > 0) list.push(['feed-forward', `${config.ffn}${sparse > 0 ? ` in ${dense} layers` : ''}`])
  if (sparse > 0)
    list.push([
      'experts',
      `${config.experts}, ${config.topKExperts} active, feed-forward ${config.moeFfn} each, in ${sparse} layers`,
    ])
  list.push(['vocabulary', `${config.vocab.toLocaleString('en')} rows`])
  list.push([
    'context',
    `${config.nativeWindow.toLocaleString('en')} tokens${model.yarn ? `, YaRN factor ${model.yarn.factor} in its config` : ''}; RoPE theta ${config.ropeTheta.toLocaleString('en')}`,
  ])
  list.push(['chat template', model.chatTemplate === undefined ? 'none (a base model: qwen3 run --raw)' : 'yes'])
  if (model.ignoredTensors.length > 0) list.push(['ignored tensors', model.ignoredTensors.slice(0, 5).join(', ')])
  return list
}

function count(value: number): string {
  for (const [unit, scale] of [
    ['billion', 1e9],
    ['million', 1e6],
    ['thousand', 1e3],
  ] as const)
    if (value >= scale) return `${(value / scale).toFixed(2)} ${unit}`
  return String(value)
}

export function size(bytes: number): string {
  for (const [unit, scale] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const)
    if (bytes >= scale) return `${(bytes / scale).toFixed(2)} ${unit}`
  return `${bytes} B`
}
