/** Writes safetensors files and whole small model folders for tests. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type ExpectedTensor, expectedTensors, parseConfig } from '../../lib/weights'

export type FileDType = 'F32' | 'F16' | 'BF16'

export interface TensorData {
  name: string
  dtype: FileDType
  shape: number[]
  values: Float32Array
}

/** A file from a header, given as an object or as text, and its data. */
export function safetensorsFile(header: object | string, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const text = new TextEncoder().encode(typeof header === 'string' ? header : JSON.stringify(header))
  const file = new Uint8Array(8 + text.length + data.length)
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true)
  file.set(text, 8)
  file.set(data, 8 + text.length)
  return file
}

/** A valid file of these tensors, in the given order. The header is padded to a multiple of eight, as writers do. */
export function encodeSafetensors(tensors: readonly TensorData[]): Uint8Array {
  const header: Record<string, unknown> = Object.assign(Object.create(null), { __metadata__: { format: 'pt' } })
  const parts: Uint8Array[] = []
  let at = 0
  for (const { name, dtype, shape, values } of tensors) {
    const bytes = encodeValues(values, dtype)
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] }
    parts.push(bytes)
    at += bytes.length
  }
  const text = JSON.stringify(header)
  const data = new Uint8Array(at)
  let offset = 0
  for (const part of parts) {
    data.set(part, offset)
    offset += part.length
  }
  return safetensorsFile(text + ' '.repeat((8 - (new TextEncoder().encode(text).length % 8)) % 8), data)
}

/** f32 as it is; bf16 and f16 rounded to nearest, ties to even. */
export function encodeValues(values: Float32Array, dtype: FileDType): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.slice().buffer)
  const bits = new Uint32Array(values.slice().buffer)
  return new Uint8Array(Uint16Array.from(bits, dtype === 'BF16' ? toBf16 : toF16).buffer)
}

function toBf16(bits: number): number {
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

function toF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const exponent = ((bits >>> 23) & 0xff) - 112
  const mantissa = bits & 0x7fffff
  if (exponent >= 31) return sign | 0x7c00
  if (exponent <= -11) return sign
  const shift = exponent <= 0 ? 14 - exponent : 13
  const full = exponent <= 0 ? mantissa | 0x800000 : (exponent << 23) | mantissa
  const half = 1 << (shift - 1)
  const rest = full & ((1 << shift) - 1)
  let result = full >>> shift
  if (rest > half || (rest === half && (result & 1) === 1)) result++
  return sign | result
}

/** Uniform values in [-scale, scale), a function of the seed. */
export function randomValues(count: number, seed: number, scale = 0.05): Float32Array {
  let state = (seed * 2654435761 + 1) >>> 0
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return (state / 2 ** 31 - 1) * scale
  })
}

/** The config.json of a small model; every width is a multiple of 128 where the kernels want it. */
export function smallConfig(changes: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    attention_bias: false,
    attention_dropout: 0.0,
    bos_token_id: 0,
    eos_token_id: 1,
    head_dim: 128,
    hidden_act: 'silu',
    hidden_size: 128,
    initializer_range: 0.02,
    intermediate_size: 128,
    max_position_embeddings: 256,
    max_window_layers: 1,
    num_attention_heads: 2,
    num_hidden_layers: 1,
    num_key_value_heads: 1,
    rms_norm_eps: 1e-6,
    rope_scaling: null,
    rope_theta: 1000000,
    sliding_window: null,
    tie_word_embeddings: true,
    torch_dtype: 'bfloat16',
    transformers_version: '4.51.0',
    use_cache: true,
    use_sliding_window: false,
    vocab_size: 64,
    ...changes,
  }
}

export const smallMoeConfig = (changes: Record<string, unknown> = {}) =>
  smallConfig({
    architectures: ['Qwen3MoeForCausalLM'],
    model_type: 'qwen3_moe',
    decoder_sparse_step: 1,
    mlp_only_layers: [],
    moe_intermediate_size: 128,
    norm_topk_prob: true,
    num_experts: 4,
    num_experts_per_tok: 2,
    output_router_logits: false,
    router_aux_loss_coef: 0.001,
    ...changes,
  })

/** Random tensors for a config: norms near one, matrices small. */
export function randomTensors(config: Record<string, unknown>, dtype: FileDType = 'BF16', seed = 1): TensorData[] {
  const { native } = parseConfig(JSON.parse(JSON.stringify(config)), 'config.json')
  return expectedTensors(native).map(({ name, shape }: ExpectedTensor, i: number) => {
    const values = randomValues(
      shape.reduce((a, b) => a * b, 1),
      seed + i,
    )
    if (shape.length === 1) for (let k = 0; k < values.length; k++) values[k]! += 1
    return { name, dtype, shape, values }
  })
}

/** Writes a model folder: config, weights (one file, or shards with an index), generation config. No tokenizer. */
export function writeModel(
  folder: string,
  config: Record<string, unknown> = smallConfig(),
  options: { dtype?: FileDType; seed?: number; shards?: number; tensors?: TensorData[] } = {},
): TensorData[] {
  const { dtype = 'BF16', seed = 1, shards = 1 } = options
  const tensors = options.tensors ?? randomTensors(config, dtype, seed)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  writeFileSync(
    join(folder, 'generation_config.json'),
    JSON.stringify({ eos_token_id: [1, 0], temperature: 0.6, top_k: 20, top_p: 0.95 }),
  )
  if (shards === 1) {
    writeFileSync(join(folder, 'model.safetensors'), encodeSafetensors(tensors))
    return tensors
  }
  const weight_map: Record<string, string> = {}
  for (let s = 0; s < shards; s++) {
    const name = `model-${String(s + 1).padStart(5, '0')}-of-${String(shards).padStart(5, '0')}.safetensors`
    const part = tensors.filter((_, i) => i % shards === s)
    for (const tensor of part) weight_map[tensor.name] = name
    writeFileSync(join(folder, name), encodeSafetensors(part))
  }
  writeFileSync(
    join(folder, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: { total_size: 0 }, weight_map }),
  )
  return tensors
}
