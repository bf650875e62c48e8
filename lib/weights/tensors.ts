import { Qwen3Error } from '../errors'
import type { NativeConfig, NativeDType, NativeTensor } from '../native'
import type { StoredTensor } from './safetensors'

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

/** Every tensor that a model of this configuration is made of, with its shape. Weights are [out, in]. */
export function expectedTensors(config: NativeConfig): ExpectedTensor[] {
  const { hidden, qHeads, kvHeads, headDim, vocab } = config
  const list: ExpectedTensor[] = [
    { name: 'model.embed_tokens.weight', shape: [vocab, hidden] },
    { name: 'model.norm.weight', shape: [hidden] },
  ]
  if (!config.tiedEmbeddings) list.push({ name: 'lm_head.weight', shape: [vocab, hidden] })
  for (let i = 0; i < config.layers; i++) {
    const layer = `model.layers.${i}`
    list.push(
      { name: `${layer}.input_layernorm.weight`, shape: [hidden] },
      { name: `${layer}.post_attention_layernorm.weight`, shape: [hidden] },
      { name: `${layer}.self_attn.q_proj.weight`, shape: [qHeads * headDim, hidden] },
      { name: `${layer}.self_attn.k_proj.weight`, shape: [kvHeads * headDim, hidden] },
      { name: `${layer}.self_attn.v_proj.weight`, shape: [kvHeads * headDim, hidden] },
      { name: `${layer}.self_attn.o_proj.weight`, shape: [hidden, qHeads * headDim] },
      { name: `${layer}.self_attn.q_norm.weight`, shape: [headDim] },
      { name: `${layer}.self_attn.k_norm.weight`, shape: [headDim] },
    )
    if (config.moeLayers[i] === 1) {
      list.push({ name: `${layer}.mlp.gate.weight`, shape: [config.experts, hidden] })
      for (let e = 0; e < config.experts; e++) pushMlp(list, `${layer}.mlp.experts.${e}`, hidden, config.moeFfn)
    } else {
      pushMlp(list, `${layer}.mlp`, hidden, config.ffn)
    }
  }
  return list
}

function pushMlp(list: ExpectedTensor[], prefix: string, hidden: number, ffn: number): void {
  list.push(
    { name: `${prefix}.gate_proj.weight`, shape: [ffn, hidden] },
    { name: `${prefix}.up_proj.weight`, shape: [ffn, hidden] },
    { name: `${prefix}.down_proj.weight`, shape: [hidden, ffn] },
  )
}

/**
 * Pairs the checkpoint's tensors with the expected ones. Missing or misshapen tensors are `BAD_MODEL_FILE` by name;
 * element types other than f32, f16, bf16 are `UNSUPPORTED`. Of the extra tensors these are ignored and returned:
 * `lm_head.weight` beside tied embeddings, `rotary_emb.inv_freq` buffers (recomputed in f64), and tensors outside
 * `model.layers` that the forward pass never reads. Extra tensors inside a layer (a bias, a quantisation scale, an
 * adapter) would change the result: `UNSUPPORTED` by name.
 */
export function matchTensors(
  config: NativeConfig,
  found: ReadonlyMap<string, LocatedTensor>,
  subject: string,
): { tensors: NativeTensor[]; ignored: string[] } {
  const stored = normaliseNames(found)
  const tensors: NativeTensor[] = []
  const expected = expectedTensors(config)
  const names = new Set(expected.map((tensor) => tensor.name))
  const ignored: string[] = []
  for (const name of stored.keys()) {
    if (!names.has(name)) ignored.push(checkIgnorable(name, config, subject))
  }
  for (const { name, shape } of expected) {
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
