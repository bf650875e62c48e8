/** Writes small random Hugging Face model folders that load through the public API: weights of trained scale, nano's tokenizer. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { HfConfig } from './forward64'
import { encodeSafetensors, type FileDType, smallConfig, smallMoeConfig, type TensorData } from './safetensors'

const nano = join(__dirname, '..', '..', 'models', 'nano')
const shared = ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']

export interface TinyModelOptions {
  /** Fields of config.json to change; a `num_experts` makes it a mixture of experts. */
  config?: Partial<HfConfig>
  seed?: number
  dtype?: FileDType
}

export interface TinyModel {
  directory: string
  config: HfConfig
  /** Deletes the folder. */
  remove(): void
}

/** A new folder under the system's temporary one; call `remove()` when done. */
export function writeTinyModel(options: TinyModelOptions = {}): TinyModel {
  const { config: changes = {}, seed = 1, dtype = 'BF16' } = options
  const { vocab_size } = JSON.parse(readFileSync(join(nano, 'config.json'), 'utf8')) as HfConfig
  const base = 'num_experts' in changes ? smallMoeConfig : smallConfig
  const config = base({ vocab_size, num_hidden_layers: 2, ...changes }) as unknown as HfConfig
  const directory = mkdtempSync(join(tmpdir(), 'qwen3-tiny-'))
  writeFileSync(join(directory, 'config.json'), JSON.stringify(config))
  writeFileSync(join(directory, 'model.safetensors'), encodeSafetensors(tensorsOf(config, dtype, random(seed))))
  for (const file of shared) copyFileSync(join(nano, file), join(directory, file))
  return { directory, config, remove: () => rmSync(directory, { recursive: true, force: true }) }
}

/** Uniform in [0, 1), a function of the seed: splitmix32. */
export function random(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let z = state
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32
  }
}

function tensorsOf(c: HfConfig, dtype: FileDType, uniform: () => number): TensorData[] {
  const tensors: TensorData[] = []
  const values = (n: number, scale: number, middle: number) =>
    Float32Array.from({ length: n }, () => middle + scale * (uniform() + uniform() + uniform() - 1.5))
  const vector = (name: string, n: number) => tensors.push({ name, dtype, shape: [n], values: values(n, 0.6, 1) })
  const matrix = (name: string, rows: number, cols: number) =>
    tensors.push({ name, dtype, shape: [rows, cols], values: values(rows * cols, 2 / Math.sqrt(cols), 0) })
  const mlp = (prefix: string, ffn: number) => {
    matrix(`${prefix}gate_proj.weight`, ffn, c.hidden_size)
    matrix(`${prefix}up_proj.weight`, ffn, c.hidden_size)
    matrix(`${prefix}down_proj.weight`, c.hidden_size, ffn)
  }
  matrix('model.embed_tokens.weight', c.vocab_size, c.hidden_size)
  for (let layer = 0; layer < c.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}.`
    const attention = `${prefix}self_attn.`
    const [q, kv] = [c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim]
    vector(`${prefix}input_layernorm.weight`, c.hidden_size)
    vector(`${prefix}post_attention_layernorm.weight`, c.hidden_size)
    matrix(`${attention}q_proj.weight`, q, c.hidden_size)
    matrix(`${attention}k_proj.weight`, kv, c.hidden_size)
    matrix(`${attention}v_proj.weight`, kv, c.hidden_size)
    matrix(`${attention}o_proj.weight`, c.hidden_size, q)
    vector(`${attention}q_norm.weight`, c.head_dim)
    vector(`${attention}k_norm.weight`, c.head_dim)
    const { mlp_only_layers = [], decoder_sparse_step = 1 } = c
    if (c.num_experts && !mlp_only_layers.includes(layer) && (layer + 1) % decoder_sparse_step === 0) {
      matrix(`${prefix}mlp.gate.weight`, c.num_experts, c.hidden_size)
      for (let e = 0; e < c.num_experts; e++) mlp(`${prefix}mlp.experts.${e}.`, c.moe_intermediate_size!)
    } else mlp(`${prefix}mlp.`, c.intermediate_size)
  }
  vector('model.norm.weight', c.hidden_size)
  if (!c.tie_word_embeddings) matrix('lm_head.weight', c.vocab_size, c.hidden_size)
  return tensors
}
