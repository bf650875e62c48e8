/**
 * An independent Qwen3 forward pass in float64: whole sequence, no cache, written from the model's formulas, with a reader
 * of safetensors of its own. Nothing of lib/ or the addon is used; the engine is held against it.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

interface Yarn {
  factor: number
  original_max_position_embeddings: number
  beta_fast?: number
  beta_slow?: number
  attention_factor?: number
}

export interface HfConfig {
  model_type: string
  num_hidden_layers: number
  hidden_size: number
  num_attention_heads: number
  num_key_value_heads: number
  head_dim: number
  vocab_size: number
  intermediate_size: number
  rms_norm_eps: number
  rope_theta: number
  tie_word_embeddings: boolean
  max_position_embeddings: number
  rope_scaling: (Yarn & { rope_type: 'yarn' }) | null
  num_experts?: number
  num_experts_per_tok?: number
  moe_intermediate_size?: number
  norm_topk_prob?: boolean
  decoder_sparse_step?: number
  mlp_only_layers?: number[]
}

type Tensors = Map<string, Float64Array>

/** Every tensor of one safetensors file as f64: u64 header length, JSON header, data. */
export function readSafetensors(path: string): Tensors {
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >
  const tensors: Tensors = new Map()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const data = file.subarray(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1])
    tensors.set(name, toFloat64(data, entry.dtype))
  }
  return tensors
}

function toFloat64(data: Buffer, dtype: string): Float64Array {
  if (dtype === 'F32') return Float64Array.from({ length: data.length / 4 }, (_, i) => data.readFloatLE(4 * i))
  const bits = (i: number) => data.readUInt16LE(2 * i)
  if (dtype === 'F16') return Float64Array.from({ length: data.length / 2 }, (_, i) => fromF16(bits(i)))
  if (dtype !== 'BF16') throw new Error(`unexpected dtype ${dtype}`)
  const word = new DataView(new ArrayBuffer(4))
  return Float64Array.from({ length: data.length / 2 }, (_, i) => {
    word.setUint16(0, bits(i))
    return word.getFloat32(0)
  })
}

function fromF16(bits: number): number {
  const exponent = (bits >> 10) & 31
  const mantissa = bits & 1023
  const magnitude = exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15)
  return bits >> 15 ? -magnitude : magnitude
}

/** `W x` for W `[rows, x.length]`. */
function product(w: Float64Array, x: Float64Array): Float64Array {
  const n = x.length
  const out = new Float64Array(w.length / n)
  for (let i = 0; i < out.length; i++) {
    let sum = 0
    for (let j = 0; j < n; j++) sum += w[i * n + j]! * x[j]!
    out[i] = sum
  }
  return out
}

const silu = (x: number) => x / (1 + Math.exp(-x))

function softmax(x: Float64Array): Float64Array {
  const top = x.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  const e = x.map((value) => Math.exp(value - top))
  const total = e.reduce((a, b) => a + b, 0)
  return e.map((value) => value / total)
}

/** One router's choice. `margin`: logarithm of the last chosen expert's share over the first left out's. */
export interface Route {
  layer: number
  position: number
  /** Ascending. */
  experts: number[]
  margin: number
}

export class Forward64 {
  readonly config: HfConfig
  readonly #tensors: Tensors
  /** The closest call of any router so far, relative; below f32's resolution another expert may be as right. */
  routerMargin = 1
  /** What the routers of the last `logits()` chose, layer by layer and position by position. */
  routes: Route[] = []

  constructor(directory: string) {
    this.config = JSON.parse(readFileSync(join(directory, 'config.json'), 'utf8')) as HfConfig
    this.#tensors = readSafetensors(join(directory, 'model.safetensors'))
  }

  /** Logits after every position, `[ids.length][vocab]`; `scaled`: with the config's YaRN. */
  logits(ids: readonly number[], scaled = false): Float64Array[] {
    const { hidden_size: d, num_hidden_layers, tie_word_embeddings } = this.config
    const embedding = this.#tensor('model.embed_tokens.weight')
    this.routes = []
    const x = ids.map((id) => embedding.slice(id * d, (id + 1) * d))
    for (let layer = 0; layer < num_hidden_layers; layer++) {
      this.#attention(layer, x, scaled)
      this.#feedForward(layer, x)
    }
    const head = tie_word_embeddings ? embedding : this.#tensor('lm_head.weight')
    const norm = this.#tensor('model.norm.weight')
    return x.map((row) => product(head, this.#rmsNorm(row, norm)))
  }

  #tensor(name: string): Float64Array {
    const found = this.#tensors.get(name)
    if (!found) throw new Error(`no tensor ${name}`)
    return found
  }

  #rmsNorm(x: Float64Array, weight: Float64Array): Float64Array {
    const square = x.reduce((sum, value) => sum + value * value, 0) / x.length
    return x.map((value, i) => (value / Math.sqrt(square + this.config.rms_norm_eps)) * weight[i]!)
  }

  /** Inverse frequencies and the factor on cos and sin; NTK-by-parts, arXiv 2309.00071 section 3.2. */
  #rope(scaled: boolean): { inv: number[]; factor: number } {
    const { head_dim, rope_theta, rope_scaling: yarn } = this.config
    const inv = Array.from({ length: head_dim / 2 }, (_, i) => rope_theta ** ((-2 * i) / head_dim))
    if (!scaled || !yarn) return { inv, factor: 1 }
    const index = (turns: number) =>
      (head_dim / 2) * (Math.log(yarn.original_max_position_embeddings / (2 * Math.PI * turns)) / Math.log(rope_theta))
    const low = Math.max(0, Math.floor(index(yarn.beta_fast ?? 32)))
    const high = Math.min(head_dim - 1, Math.ceil(index(yarn.beta_slow ?? 1)))
    const blended = inv.map((frequency, i) => {
      const keep = 1 - Math.min(1, Math.max(0, (i - low) / (high === low ? 0.001 : high - low)))
      return frequency * keep + (frequency / yarn.factor) * (1 - keep)
    })
    return { inv: blended, factor: yarn.attention_factor ?? 0.1 * Math.log(yarn.factor) + 1 }
  }

  #head(x: Float64Array, weight: Float64Array, position: number, rope: { inv: number[]; factor: number }) {
    const n = this.#rmsNorm(x, weight)
    const half = n.length / 2
    return n.map((value, i) => {
      const angle = position * rope.inv[i % half]!
      const other = i < half ? -n[i + half]! : n[i - half]!
      return rope.factor * (value * Math.cos(angle) + other * Math.sin(angle))
    })
  }

  #attention(layer: number, x: Float64Array[], scaled: boolean): void {
    const { num_attention_heads: nq, num_key_value_heads: nkv, head_dim: d } = this.config
    const prefix = `model.layers.${layer}.`
    const w = (name: string) => this.#tensor(`${prefix}self_attn.${name}.weight`)
    const norm = this.#tensor(`${prefix}input_layernorm.weight`)
    const rope = this.#rope(scaled)
    const normed = x.map((row) => this.#rmsNorm(row, norm))
    const heads = (rows: Float64Array[], n: number) =>
      rows.map((row) => Array.from({ length: n }, (_, h) => row.slice(h * d, (h + 1) * d)))
    const project = (name: string) => normed.map((row) => product(w(name), row))
    const q = heads(project('q_proj'), nq).map((row, p) => row.map((h) => this.#head(h, w('q_norm'), p, rope)))
    const k = heads(project('k_proj'), nkv).map((row, p) => row.map((h) => this.#head(h, w('k_norm'), p, rope)))
    const v = heads(project('v_proj'), nkv)
    for (let p = 0; p < x.length; p++) {
      const mixed = new Float64Array(nq * d)
      for (let h = 0; h < nq; h++) {
        const group = Math.floor(h / (nq / nkv))
        const scores = Float64Array.from({ length: p + 1 }, (_, j) =>
          q[p]![h]!.reduce((sum, value, i) => sum + (value * k[j]![group]![i]!) / Math.sqrt(d), 0),
        )
        softmax(scores).forEach((weight, j) => {
          for (let i = 0; i < d; i++) mixed[h * d + i]! += weight * v[j]![group]![i]!
        })
      }
      const out = product(w('o_proj'), mixed)
      x[p] = x[p]!.map((value, i) => value + out[i]!)
    }
  }

  #feedForward(layer: number, x: Float64Array[]): void {
    const prefix = `model.layers.${layer}.`
    const norm = this.#tensor(`${prefix}post_attention_layernorm.weight`)
    for (let p = 0; p < x.length; p++) {
      const n = this.#rmsNorm(x[p]!, norm)
      const out = this.#isSparse(layer) ? this.#experts(layer, p, n) : this.#mlp(`${prefix}mlp.`, n)
      x[p] = x[p]!.map((value, i) => value + out[i]!)
    }
  }

  #isSparse(layer: number): boolean {
    const { model_type, mlp_only_layers = [], decoder_sparse_step = 1 } = this.config
    return model_type === 'qwen3_moe' && !mlp_only_layers.includes(layer) && (layer + 1) % decoder_sparse_step === 0
  }

  #mlp(prefix: string, x: Float64Array): Float64Array {
    const up = product(this.#tensor(`${prefix}up_proj.weight`), x)
    const gated = product(this.#tensor(`${prefix}gate_proj.weight`), x).map((gate, i) => silu(gate) * up[i]!)
    return product(this.#tensor(`${prefix}down_proj.weight`), gated)
  }

  #experts(layer: number, position: number, x: Float64Array): Float64Array {
    const prefix = `model.layers.${layer}.mlp.`
    const { num_experts_per_tok = 1, norm_topk_prob = false } = this.config
    const p = softmax(product(this.#tensor(`${prefix}gate.weight`), x))
    const order = Array.from(p.keys()).sort((a, b) => p[b]! - p[a]! || a - b)
    const chosen = order.slice(0, num_experts_per_tok)
    const next = order[num_experts_per_tok]
    const experts = [...chosen].sort((a, b) => a - b)
    const last = p[chosen.at(-1)!]!
    this.routes.push({ layer, position, experts, margin: next === undefined ? Infinity : Math.log(last / p[next]!) })
    if (next !== undefined) {
      this.routerMargin = Math.min(this.routerMargin, (last - p[next]!) / last)
    }
    const total = norm_topk_prob ? chosen.reduce((sum, e) => sum + p[e]!, 0) : 1
    const out = new Float64Array(x.length)
    for (const e of chosen) {
      this.#mlp(`${prefix}experts.${e}.`, x).forEach((value, i) => {
        out[i]! += (p[e]! / total) * value
      })
    }
    return out
  }
}

/** `|a - b| / |b|` in the 2-norm. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let difference = 0
  let norm = 0
  if (a.length !== b.length) throw new Error(`lengths ${a.length} and ${b.length} differ`)
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2
    norm += b[i]! ** 2
  }
  return Math.sqrt(difference / norm)
}

/** log softmax(logits)[id] */
export function logProbability(logits: Float64Array, id: number): number {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
  return logits[id]! - top - Math.log(logits.reduce((sum, value) => sum + Math.exp(value - top), 0))
}
