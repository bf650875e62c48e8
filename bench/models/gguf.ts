/**
 * Writes a Hugging Face Qwen3 folder as a GGUF file for the peer, in any of the formats that the comparison needs. Tensors
 * get the types that the peer's own quantiser gives them, with one exception: Q4_0 is Q4_0 throughout, the embedding
 * included, so that it has as many bits a weight as int4 has here (the peer's tool makes the embedding of a tied
 * model Q6_K, which is slower).
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ALIGNMENT, ggufHeader, type TensorInfo, type Value } from './gguf-header'
import { readSafetensors } from './safetensors'
import {
  type ElementType,
  elementTypes,
  type PlannedTensor,
  type Source,
  storedBytes,
  writeTensors,
} from './tensor-tool'

/** Formats of whole files, with their number in the metadata. */
export const fileTypes = { F32: 0, BF16: 32, Q8_0: 7, Q4_0: 2, Q4_K_M: 15 } as const
export type GgufFormat = keyof typeof fileTypes

interface Model {
  layers: number
  experts: number
  tensors: Map<string, Source>
}

interface GgufTensor {
  name: string
  shape: number[]
  sources: Source[]
}

/** In Q4_K_M half of the layers keep more bits: the first and last eighth, and every third between. */
const keepsMoreBits = (layer: number, layers: number) => {
  const eighth = Math.floor(layers / 8)
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2
}

/**
 * The type of a tensor. Blocks of 256 that do not fit a row fall back to the next finer type of 32. (The peer's tool gives
 * the attention of models of exactly eight experts more bits; that is left out, for the sake of equal sizes.)
 */
export function tensorType(format: GgufFormat, name: string, cols: number, layers: number): ElementType {
  if (name.includes('norm') || name.includes('ffn_gate_inp')) return 'F32'
  if (format !== 'Q4_K_M') return format
  const layer = Number(/^blk\.(\d+)\./.exec(name)?.[1] ?? -1)
  const more =
    name === 'output.weight' ||
    name === 'token_embd.weight' ||
    (/attn_v|ffn_down/.test(name) && keepsMoreBits(layer, layers))
  if (cols % 256 === 0) return more ? 'Q6_K' : 'Q4_K'
  return more ? 'Q8_0' : 'Q5_0'
}

/** Names of llama.cpp's `qwen3` and `qwen3moe` architectures; a layer's experts are one tensor of three dimensions. */
function ggufTensors({ layers, experts, tensors }: Model): GgufTensor[] {
  const out: GgufTensor[] = []
  const source = (name: string): Source => {
    const found = tensors.get(name)
    if (!found) throw new Error(`the folder has no tensor ${name}`)
    return found
  }
  const move = (name: string, from: string) => {
    const one = source(from)
    out.push({ name, shape: name.includes('norm') ? [one.cols] : [one.rows, one.cols], sources: [one] })
  }
  move('token_embd.weight', 'model.embed_tokens.weight')
  move('output_norm.weight', 'model.norm.weight')
  if (tensors.has('lm_head.weight')) move('output.weight', 'lm_head.weight')
  for (let i = 0; i < layers; i++) {
    const from = `model.layers.${i}.`
    const to = `blk.${i}.`
    move(`${to}attn_norm.weight`, `${from}input_layernorm.weight`)
    move(`${to}ffn_norm.weight`, `${from}post_attention_layernorm.weight`)
    for (const part of ['q', 'k', 'v']) move(`${to}attn_${part}.weight`, `${from}self_attn.${part}_proj.weight`)
    move(`${to}attn_output.weight`, `${from}self_attn.o_proj.weight`)
    for (const part of ['q', 'k']) move(`${to}attn_${part}_norm.weight`, `${from}self_attn.${part}_norm.weight`)
    if (experts > 0) move(`${to}ffn_gate_inp.weight`, `${from}mlp.gate.weight`)
    for (const part of ['gate', 'up', 'down']) {
      if (experts === 0) {
        move(`${to}ffn_${part}.weight`, `${from}mlp.${part}_proj.weight`)
        continue
      }
      const sources = Array.from({ length: experts }, (_, e) => source(`${from}mlp.experts.${e}.${part}_proj.weight`))
      out.push({ name: `${to}ffn_${part}_exps.weight`, shape: [experts, sources[0]!.rows, sources[0]!.cols], sources })
    }
  }
  return out
}

/** Bytes of the matrices in a format, and how many weights they have. */
export function ggufSize(directory: string, format: GgufFormat): { bytes: number; weights: number } {
  let bytes = 0
  let weights = 0
  const model = readModel(directory)
  for (const { name, sources } of ggufTensors(model)) {
    const type = tensorType(format, name, sources[0]!.cols, model.layers)
    if (type === 'F32' && format !== 'F32') continue
    bytes += storedBytes(type, sources)
    weights += storedBytes('F32', sources) / 4
  }
  return { bytes, weights }
}

/** For each tensor of the folder the type that `format` gives it. */
export function typesByName(directory: string, format: GgufFormat): Map<string, ElementType> {
  const model = readModel(directory)
  const types = new Map<Source, ElementType>()
  for (const { name, sources } of ggufTensors(model))
    for (const one of sources) types.set(one, tensorType(format, name, one.cols, model.layers))
  return new Map([...model.tensors].map(([name, source]) => [name, types.get(source) ?? 'F32']))
}

function readModel(directory: string): Model {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
  return {
    layers: config.num_hidden_layers,
    experts: config.num_experts ?? 0,
    tensors: readSafetensors(join(directory, 'model.safetensors')),
  }
}

function vocabulary(tokenizer: Tokenizer, size: number): [string, Value][] {
  const tokens = Array.from({ length: size }, (_, i) => `[PAD${i}]`)
  const types = tokens.map(() => 5) // unused
  for (const [token, id] of Object.entries(tokenizer.model.vocab)) {
    tokens[id] = token
    types[id] = 1
  }
  for (const { id, content, special } of tokenizer.added_tokens) {
    tokens[id] = content
    types[id] = special ? 3 : 4
  }
  const merges = tokenizer.model.merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')))
  return [
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'qwen2' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    ['tokenizer.ggml.merges', { type: 'strings', value: merges }],
    ['tokenizer.ggml.eos_token_id', { type: 'u32', value: tokens.indexOf('<|im_end|>') }],
    ['tokenizer.ggml.padding_token_id', { type: 'u32', value: tokens.indexOf('<|endoftext|>') }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ]
}

interface Tokenizer {
  model: { vocab: Record<string, number>; merges: (string | string[])[] }
  added_tokens: { id: number; content: string; special: boolean }[]
}

function metadata(directory: string, format: GgufFormat): [string, Value][] {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
  const tokenizer = JSON.parse(readFileSync(join(directory, 'tokenizer.json'), 'utf8')) as Tokenizer
  const experts: number = config.num_experts ?? 0
  const arch = experts ? 'qwen3moe' : 'qwen3'
  const u32 = (key: string, value: number): [string, Value] => [`${arch}.${key}`, { type: 'u32', value }]
  const f32 = (key: string, value: number): [string, Value] => [`${arch}.${key}`, { type: 'f32', value }]
  return [
    ['general.architecture', { type: 'string', value: arch }],
    ['general.name', { type: 'string', value: 'qwen3 comparison' }],
    ['general.alignment', { type: 'u32', value: ALIGNMENT }],
    ['general.file_type', { type: 'u32', value: fileTypes[format] }],
    ['general.quantization_version', { type: 'u32', value: 2 }],
    u32('block_count', config.num_hidden_layers),
    u32('context_length', config.max_position_embeddings),
    u32('embedding_length', config.hidden_size),
    u32('feed_forward_length', config.intermediate_size),
    u32('attention.head_count', config.num_attention_heads),
    u32('attention.head_count_kv', config.num_key_value_heads),
    u32('attention.key_length', config.head_dim),
    u32('attention.value_length', config.head_dim),
    f32('attention.layer_norm_rms_epsilon', config.rms_norm_eps),
    f32('rope.freq_base', config.rope_theta ?? config.rope_parameters.rope_theta),
    ...(experts
      ? [
          u32('expert_count', experts),
          u32('expert_used_count', config.num_experts_per_tok),
          u32('expert_feed_forward_length', config.moe_intermediate_size),
        ]
      : []),
    ...vocabulary(tokenizer, config.vocab_size),
  ]
}

/** Writes `directory` (config.json, tokenizer.json, model.safetensors) to `path`. */
export function writeGguf(directory: string, path: string, format: GgufFormat): void {
  const model = readModel(directory)
  const infos: TensorInfo[] = []
  const planned: PlannedTensor[] = []
  let end = 0
  for (const { name, shape, sources } of ggufTensors(model)) {
    const type = tensorType(format, name, sources[0]!.cols, model.layers)
    if (sources[0]!.cols % elementTypes[type].elements !== 0) throw new Error(`${name} cannot be ${type}`)
    infos.push({ name, shape, type, offset: end })
    planned.push({ type, offset: end, sources })
    end = Math.ceil((end + storedBytes(type, sources)) / ALIGNMENT) * ALIGNMENT
  }
  const header = ggufHeader(metadata(directory, format), infos)
  writeFileSync(path, header)
  writeTensors(
    path,
    planned.map((tensor) => ({ ...tensor, offset: header.length + tensor.offset })),
  )
  truncateSync(path, header.length + end) // the last tensor is padded too
}
