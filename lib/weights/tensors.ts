import { Qwen3Error } from '../errors'
import type { NativeConfig, NativeDType, NativeTensor } from '../native'
import type { StoredTensor } from './safetensors'
import { Slices } from './slices'

export interface ExpectedTensor {
  name: string
  shape: number[]
}

/** A header entry together with the file it lies in. */
export interface LocatedTensor extends StoredTensor {
  path: string
}

const DTYPES: ReadonlyMap<string, NativeDType> = new Map([
  ['F32', 'f32'],
  ['F16', 'f16'],
  ['BF16', 'bf16'],
])

/** A shape and how many tensors of the model have it. */
interface ShapeGroup {
  shape: number[]
  count: number
  /** Which format it is kept in. */
  kind: 'linear' | 'embedding' | 'head' | 'router' | 'vector'
}

/** The tensors of one layer, by the rest of their name. Weights are [out, in]. */
function layerShapes(config: NativeConfig): Record<string, number[]> {
  const { hidden, qHeads, kvHeads, headDim } = config
  return {
    'input_layernorm.weight': [hidden],
    'post_attention_layernorm.weight': [hidden],
    'self_attn.q_proj.weight': [qHeads * headDim, hidden],
    'self_attn.k_proj.weight': [kvHeads * headDim, hidden],
    'self_attn.v_proj.weight': [kvHeads * headDim, hidden],
    'self_attn.o_proj.weight': [hidden, qHeads * headDim],
    'self_attn.q_norm.weight': [headDim],
    'self_attn.k_norm.weight': [headDim],
  }
}

function mlpShapes(hidden: number, ffn: number): Record<string, number[]> {
  return { 'gate_proj.weight': [ffn, hidden], 'up_proj.weight': [ffn, hidden], 'down_proj.weight': [hidden, ffn] }
}

/** Every tensor that a model of this configuration is made of, with its shape. */
export function* eachExpectedTensor(config: NativeConfig): Generator<ExpectedTensor> {
  const { hidden, vocab } = config
  yield { name: 'model.embed_tokens.weight', shape: [vocab, hidden] }
  yield { name: 'model.norm.weight', shape: [hidden] }
  if (!config.tiedEmbeddings) yield { name: 'lm_head.weight', shape: [vocab, hidden] }
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    yield* named(layer, layerShapes(config))
    if (config.moeLayers[i] === 1) {
      yield { name: `${layer}.mlp.gate.weight`, shape: [config.experts, hidden] }
      const expert = mlpShapes(hidden, config.moeFfn)
      for (let e = 0; e < config.experts; e++) yield* named(`${layer}.mlp.experts.${e}`, expert)
    } else {
      yield* named(`${layer}.mlp`, mlpShapes(hidden, config.ffn))
    }
  }
}

export function expectedTensors(config: NativeConfig): ExpectedTensor[] {
  return [...eachExpectedTensor(config)]
}

function* named(prefix: string, shapes: Record<string, number[]>): Generator<ExpectedTensor> {
  for (const [name, shape] of Object.entries(shapes)) yield { name: `${prefix}.${name}`, shape }
}

/** The same tensors counted by shape: sizes of a large model without its tens of thousands of names. */
export function shapeGroups(config: NativeConfig): ShapeGroup[] {
  const { hidden, vocab, layers } = config
  const sparse = config.moeLayers.reduce((sum, flag) => sum + flag, 0)
  const times = (shapes: Record<string, number[]>, count: number) =>
    Object.values(shapes).map((shape) => ({ shape, count, kind: shape.length === 1 ? 'vector' : 'linear' }) as const)
  return [
    { shape: [vocab, hidden], count: 1, kind: 'embedding' },
    { shape: [vocab, hidden], count: config.tiedEmbeddings ? 0 : 1, kind: 'head' },
    { shape: [hidden], count: 1, kind: 'vector' },
    ...times(layerShapes(config), layers),
    ...times(mlpShapes(hidden, config.ffn), layers - sparse),
    ...times(mlpShapes(hidden, config.moeFfn), sparse * config.experts),
    { shape: [config.experts, hidden], count: sparse, kind: 'router' },
  ]
}

/**
 * Pairs the checkpoint's tensors with the expected ones. Missing or misshapen tensors are `BAD_MODEL_FILE` by name;
 * element types other than f32, f16, bf16 are `UNSUPPORTED`. Of the extra tensors these are ignored and returned:
 * `lm_head.weight` beside tied embeddings, `rotary_emb.inv_freq` buffers (recomputed in f64), and tensors outside
 * `model.layers` that the forward pass never reads. Extra tensors inside a layer (a bias, a quantisation scale, an
 * adapter) would change the result: `UNSUPPORTED` by name.
 */
export async function matchTensors(
  config: NativeConfig,
  found: ReadonlyMap<string, LocatedTensor>,
  subject: string,
): Promise<{ tensors: NativeTensor[]; ignored: string[] }> {
  const stored = normaliseNames(found)
  const tensors: NativeTensor[] = []
  const needed = new Set<string>()
  const slices = new Slices()
  const ignored: string[] = []
  for (const { name, shape } of eachExpectedTensor(config)) {
    if (slices.due()) await slices.pause()
    needed.add(name)
    const tensor = stored.get(name)
    if (tensor === undefined) throw missing(name, subject)
    const { dtype: storedType, path, offset, bytes } = tensor
    const problem = (text: string) =>
      new Qwen3Error('BAD_MODEL_FILE', `${path}: tensor ${name}: ${text}.`, { subject: name })
    if (shape.length !== tensor.shape.length || shape.some((n, d) => n !== tensor.shape[d])) {
      throw problem(`expected shape [${shape.join(', ')}] from config.json, found [${tensor.shape.join(', ')}]`)
    }
    const dtype = DTYPES.get(storedType)
    if (dtype === undefined) {
      throw new Qwen3Error(
        'UNSUPPORTED',
        `${path}: tensor ${name}: element type ${storedType} is not supported; f32, f16 and bf16 are.`,
        { subject: name },
      )
    }
    tensors.push({ name, path, offset, bytes, dtype, shape })
  }
  for (const name of stored.keys()) {
    if (slices.due()) await slices.pause()
    if (!needed.has(name)) ignored.push(checkIgnorable(name, config, subject))
  }
  return { tensors, ignored }
}

/** The Embedding models name their tensors without `model.`; the engine knows one spelling. */
function normaliseNames(found: ReadonlyMap<string, LocatedTensor>): ReadonlyMap<string, LocatedTensor> {
  if (found.has('model.embed_tokens.weight') || !found.has('embed_tokens.weight')) return found
  const prefixed = (name: string) => (/^(embed_tokens|norm|layers)\./.test(name) ? `model.${name}` : name)
  return new Map([...found].map(([name, tensor]) => [prefixed(name), tensor]))
}

function checkIgnorable(name: string, config: NativeConfig, subject: string): string {
  const shown = name.slice(0, 200)
  const layer = /^model\.layers\.(\d+)\.(.*)$/.exec(name)
  if (layer !== null) {
    if (layer[2]!.endsWith('rotary_emb.inv_freq')) return shown
    if (Number(layer[1]) >= config.layers) {
      throw new Qwen3Error(
        'BAD_MODEL_FILE',
        `${subject}: tensor ${shown}: config.json says that there are ${config.layers} layers.`,
        { subject: shown },
      )
    }
    throw new Qwen3Error(
      'UNSUPPORTED',
      `${subject}: tensor ${shown} is not part of a ${config.experts > 0 ? 'qwen3_moe' : 'qwen3'} layer and would change the result.`,
      { subject: shown },
    )
  }
  if (/^(lm_head|model\.norm|model\.embed_tokens)\.(?!weight$)/.test(name)) {
    throw new Qwen3Error('UNSUPPORTED', `${subject}: tensor ${shown} would change the result and is not supported.`, {
      subject: shown,
    })
  }
  return shown
}

function missing(name: string, subject: string): Qwen3Error {
  const hint = name === 'lm_head.weight' ? ' (config.json does not say tie_word_embeddings: true)' : ''
  return new Qwen3Error('BAD_MODEL_FILE', `${subject}: tensor ${name} is missing${hint}.`, { subject: name })
}
