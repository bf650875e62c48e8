/**
 * Writes a Hugging Face Qwen3 directory as a GGUF file of f32 tensors, for comparing against llama.cpp.
 * Format: the GGUF specification, version 3 (header, metadata, tensor infos, tensors aligned to 32 bytes).
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

type Value =
  | { type: 'u32' | 'f32' | 'i32'; value: number }
  | { type: 'bool'; value: boolean }
  | { type: 'string'; value: string }
  | { type: 'strings'; value: string[] }
  | { type: 'i32s'; value: number[] }

interface Tensor {
  shape: number[]
  values: Float32Array
}

const ALIGNMENT = 32

/** Reads every tensor of `model.safetensors` as f32. */
function readSafetensors(path: string): Map<string, Tensor> {
  const file = readFileSync(path)
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.subarray(8, 8 + headerBytes).toString('utf8'))
  const tensors = new Map<string, Tensor>()
  for (const [name, info] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(
    header,
  )) {
    if (name === '__metadata__') continue
    const bytes = file.subarray(8 + headerBytes + info.data_offsets[0], 8 + headerBytes + info.data_offsets[1])
    tensors.set(name, { shape: info.shape, values: toF32(bytes, info.dtype) })
  }
  return tensors
}

function toF32(bytes: Buffer, dtype: string): Float32Array {
  if (dtype === 'F32') return new Float32Array(new Uint8Array(bytes).buffer)
  if (dtype !== 'BF16') throw new Error(`gguf: the writer reads F32 and BF16, not ${dtype}`)
  const halves = new Uint16Array(new Uint8Array(bytes).buffer)
  const wide = new Uint32Array(halves.length)
  for (let i = 0; i < halves.length; i++) wide[i] = (halves[i] as number) << 16
  return new Float32Array(wide.buffer)
}

class Writer {
  private chunks: Buffer[] = []
  length = 0
  raw(buffer: Buffer) {
    this.chunks.push(buffer)
    this.length += buffer.length
  }
  u32(value: number) {
    const b = Buffer.alloc(4)
    b.writeUInt32LE(value)
    this.raw(b)
  }
  u64(value: number) {
    const b = Buffer.alloc(8)
    b.writeBigUInt64LE(BigInt(value))
    this.raw(b)
  }
  string(value: string) {
    const b = Buffer.from(value, 'utf8')
    this.u64(b.length)
    this.raw(b)
  }
  numbers(values: number[], write: (b: Buffer, value: number, at: number) => void) {
    const b = Buffer.alloc(4 * values.length)
    for (const [i, value] of values.entries()) write(b, value, 4 * i)
    this.raw(b)
  }
  pad() {
    this.raw(Buffer.alloc((ALIGNMENT - (this.length % ALIGNMENT)) % ALIGNMENT))
  }
  bytes(): Buffer {
    return Buffer.concat(this.chunks)
  }
}

const TYPE_ID = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const

function writeValue(out: Writer, entry: Value) {
  if (entry.type === 'strings') {
    out.u32(TYPE_ID.array)
    out.u32(TYPE_ID.string)
    out.u64(entry.value.length)
    for (const text of entry.value) out.string(text)
  } else if (entry.type === 'i32s') {
    out.u32(TYPE_ID.array)
    out.u32(TYPE_ID.i32)
    out.u64(entry.value.length)
    out.numbers(entry.value, (b, value, at) => b.writeInt32LE(value, at))
  } else {
    out.u32(TYPE_ID[entry.type])
    if (entry.type === 'string') out.string(entry.value)
    else if (entry.type === 'bool') out.raw(Buffer.from([entry.value ? 1 : 0]))
    else if (entry.type === 'u32') out.u32(entry.value)
    else
      out.numbers([entry.value], (b, v, at) => (entry.type === 'f32' ? b.writeFloatLE(v, at) : b.writeInt32LE(v, at)))
  }
}

/** Tensor names of llama.cpp's `qwen3` and `qwen3moe` architectures. */
function renamed(tensors: Map<string, Tensor>, layers: number, experts: number): Map<string, Tensor> {
  const out = new Map<string, Tensor>()
  const move = (to: string, from: string) => {
    const tensor = tensors.get(from)
    if (!tensor) throw new Error(`gguf: the directory has no ${from}`)
    out.set(to, tensor)
  }
  move('token_embd.weight', 'model.embed_tokens.weight')
  move('output_norm.weight', 'model.norm.weight')
  if (tensors.has('lm_head.weight')) move('output.weight', 'lm_head.weight')
  for (let i = 0; i < layers; i++) {
    const from = `model.layers.${i}.`
    const to = `blk.${i}.`
    move(`${to}attn_norm.weight`, `${from}input_layernorm.weight`)
    move(`${to}ffn_norm.weight`, `${from}post_attention_layernorm.weight`)
    for (const [theirs, ours] of [
      ['attn_q', 'q_proj'],
      ['attn_k', 'k_proj'],
      ['attn_v', 'v_proj'],
      ['attn_output', 'o_proj'],
      ['attn_q_norm', 'q_norm'],
      ['attn_k_norm', 'k_norm'],
    ] as const) {
      move(`${to}${theirs}.weight`, `${from}self_attn.${ours}.weight`)
    }
    if (experts === 0) {
      for (const part of ['gate', 'up', 'down']) move(`${to}ffn_${part}.weight`, `${from}mlp.${part}_proj.weight`)
      continue
    }
    move(`${to}ffn_gate_inp.weight`, `${from}mlp.gate.weight`)
    for (const part of ['gate', 'up', 'down']) {
      const all = Array.from(
        { length: experts },
        (_, e) => tensors.get(`${from}mlp.experts.${e}.${part}_proj.weight`) as Tensor,
      )
      const values = new Float32Array(all.reduce((sum, tensor) => sum + tensor.values.length, 0))
      for (const [e, tensor] of all.entries()) values.set(tensor.values, e * tensor.values.length)
      out.set(`${to}ffn_${part}_exps.weight`, { shape: [experts, ...(all[0] as Tensor).shape], values })
    }
  }
  return out
}

/** Writes `directory` (config.json, tokenizer.json, model.safetensors) to `path` as f32 GGUF. */
export function writeGguf(directory: string, path: string): void {
  const config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8'))
  const tokenizer = JSON.parse(readFileSync(join(directory, 'tokenizer.json'), 'utf8'))
  const experts: number = config.num_experts ?? 0
  const arch = experts ? 'qwen3moe' : 'qwen3'

  const tokens: string[] = Array.from({ length: config.vocab_size }, (_, i) => `[PAD${i}]`)
  const types: number[] = tokens.map(() => 5) // unused
  for (const [token, id] of Object.entries<number>(tokenizer.model.vocab)) {
    tokens[id] = token
    types[id] = 1
  }
  for (const token of tokenizer.added_tokens) {
    tokens[token.id] = token.content
    types[token.id] = token.special ? 3 : 4
  }
  const idOf = (text: string): number => tokens.indexOf(text)
  const merges = tokenizer.model.merges.map((m: string | string[]) => (typeof m === 'string' ? m : m.join(' ')))

  const meta: [string, Value][] = [
    ['general.architecture', { type: 'string', value: arch }],
    ['general.name', { type: 'string', value: 'qwen3 comparison' }],
    ['general.alignment', { type: 'u32', value: ALIGNMENT }],
    ['general.file_type', { type: 'u32', value: 0 }],
    [`${arch}.block_count`, { type: 'u32', value: config.num_hidden_layers }],
    [`${arch}.context_length`, { type: 'u32', value: config.max_position_embeddings }],
    [`${arch}.embedding_length`, { type: 'u32', value: config.hidden_size }],
    [`${arch}.feed_forward_length`, { type: 'u32', value: config.intermediate_size }],
    [`${arch}.attention.head_count`, { type: 'u32', value: config.num_attention_heads }],
    [`${arch}.attention.head_count_kv`, { type: 'u32', value: config.num_key_value_heads }],
    [`${arch}.attention.key_length`, { type: 'u32', value: config.head_dim }],
    [`${arch}.attention.value_length`, { type: 'u32', value: config.head_dim }],
    [`${arch}.attention.layer_norm_rms_epsilon`, { type: 'f32', value: config.rms_norm_eps }],
    [`${arch}.rope.freq_base`, { type: 'f32', value: config.rope_theta ?? config.rope_parameters.rope_theta }],
    ['tokenizer.ggml.model', { type: 'string', value: 'gpt2' }],
    ['tokenizer.ggml.pre', { type: 'string', value: 'qwen2' }],
    ['tokenizer.ggml.tokens', { type: 'strings', value: tokens }],
    ['tokenizer.ggml.token_type', { type: 'i32s', value: types }],
    ['tokenizer.ggml.merges', { type: 'strings', value: merges }],
    ['tokenizer.ggml.eos_token_id', { type: 'u32', value: idOf('<|im_end|>') }],
    ['tokenizer.ggml.padding_token_id', { type: 'u32', value: idOf('<|endoftext|>') }],
    ['tokenizer.ggml.add_bos_token', { type: 'bool', value: false }],
  ]
  if (experts) {
    meta.push(
      [`${arch}.expert_count`, { type: 'u32', value: experts }],
      [`${arch}.expert_used_count`, { type: 'u32', value: config.num_experts_per_tok }],
      [`${arch}.expert_feed_forward_length`, { type: 'u32', value: config.moe_intermediate_size }],
    )
  }

  const tensors = renamed(readSafetensors(join(directory, 'model.safetensors')), config.num_hidden_layers, experts)
  const out = new Writer()
  out.raw(Buffer.from('GGUF'))
  out.u32(3)
  out.u64(tensors.size)
  out.u64(meta.length)
  for (const [key, entry] of meta) {
    out.string(key)
    writeValue(out, entry)
  }
  let offset = 0
  for (const [name, tensor] of tensors) {
    out.string(name)
    out.u32(tensor.shape.length)
    for (const dim of [...tensor.shape].reverse()) out.u64(dim)
    out.u32(0) // GGML_TYPE_F32
    out.u64(offset)
    offset += Math.ceil((4 * tensor.values.length) / ALIGNMENT) * ALIGNMENT
  }
  out.pad()
  for (const tensor of tensors.values()) {
    out.raw(Buffer.from(tensor.values.buffer, tensor.values.byteOffset, tensor.values.byteLength))
    out.pad()
  }
  writeFileSync(path, out.bytes())
}
