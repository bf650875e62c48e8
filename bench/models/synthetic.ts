/**
 * Synthetic checkpoints on disk: the weights of `random:` models (native/model/random_weights.h) as a Hugging Face folder and
 * as GGUF files, so that two engines load the same numbers. Large: they go to a temporary folder and stay there for the
 * next run.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { repository } from '../support/environment'
import { type GgufFormat, writeGguf } from './gguf'
import { type NewTensor, writeSafetensors } from './safetensors'
import { randomSource } from './tensor-tool'

export interface Shape {
  layers: number
  hidden: number
  qHeads: number
  kvHeads: number
  headDim: number
  /** Of a dense layer, or of one expert. */
  ffn: number
  experts: number
  topK: number
  vocab: number
}

const half = { hidden: 1024, qHeads: 16, kvHeads: 8, headDim: 128, vocab: 151_936 }

/** Both with tied embeddings. `dense` is Qwen3-0.6B. */
export const shapes = {
  dense: { ...half, layers: 28, ffn: 3072, experts: 0, topK: 0 },
  moe: { ...half, layers: 8, ffn: 512, experts: 128, topK: 8 },
} satisfies Record<string, Shape>
export type ShapeName = keyof typeof shapes

/** Weights that a token is multiplied with; the head is one of them, the lookup in the embedding is not. */
export function activeWeights(shape: Shape): { layers: number; experts: number; router: number; head: number } {
  const { hidden, qHeads, kvHeads, headDim, ffn, experts, topK, vocab, layers } = shape
  const attention = hidden * headDim * (2 * qHeads + 2 * kvHeads)
  const dense = experts === 0 ? 3 * hidden * ffn : 0
  return {
    layers: layers * (attention + dense),
    experts: layers * topK * 3 * hidden * (experts > 0 ? ffn : 0),
    router: layers * experts * hidden,
    head: vocab * hidden,
  }
}

const SEED = 0
/** Counts changes of what is written. */
const VERSION = 1

export function modelsFolder(): string {
  return join(tmpdir(), 'qwen3-bench-models')
}

/** The folder of a shape in safetensors, written on the first call. */
export function checkpoint(name: ShapeName, root = modelsFolder()): string {
  const folder = join(root, name, 'checkpoint')
  const mark = join(folder, 'bench.json')
  const identity = JSON.stringify({ version: VERSION, seed: SEED, shape: shapes[name] })
  if (existsSync(mark) && readFileSync(mark, 'utf8') === identity) return folder
  rmSync(join(root, name), { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const nano = join(repository, 'models/nano')
  for (const file of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json'])
    copyFileSync(join(nano, file), join(folder, file))
  const config = JSON.parse(readFileSync(join(nano, 'config.json'), 'utf8'))
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...configOf(shapes[name]) }, null, 2))
  writeSafetensors(join(folder, 'model.safetensors'), tensors(shapes[name]))
  writeFileSync(mark, identity)
  return folder
}

/** The same weights in a format of the peer. */
export function ggufFile(name: ShapeName, format: GgufFormat, root = modelsFolder()): string {
  const folder = checkpoint(name, root)
  const path = join(root, name, `${format}.gguf`)
  if (!existsSync(path)) {
    writeGguf(folder, `${path}.part`, format)
    renameSync(`${path}.part`, path)
  }
  return path
}

function configOf(shape: Shape): object {
  return {
    ...(shape.experts > 0 && {
      architectures: ['Qwen3MoeForCausalLM'],
      model_type: 'qwen3_moe',
      decoder_sparse_step: 1,
      mlp_only_layers: [],
      moe_intermediate_size: shape.ffn,
      norm_topk_prob: true,
      num_experts: shape.experts,
      num_experts_per_tok: shape.topK,
    }),
    hidden_size: shape.hidden,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.qHeads,
    num_key_value_heads: shape.kvHeads,
    head_dim: shape.headDim,
    intermediate_size: shape.experts > 0 ? 6 * shape.ffn : shape.ffn,
    max_position_embeddings: 40_960,
    max_window_layers: shape.layers,
    rope_theta: 1_000_000,
    tie_word_embeddings: true,
    vocab_size: shape.vocab,
  }
}

function tensors(shape: Shape): NewTensor[] {
  const { hidden, headDim, ffn } = shape
  const q = shape.qHeads * headDim
  const kv = shape.kvHeads * headDim
  const all: NewTensor[] = []
  const add = (name: string, rows: number, cols = 0) =>
    all.push({
      name,
      shape: cols === 0 ? [rows] : [rows, cols],
      type: 'BF16',
      source: randomSource(SEED, rows, cols, name),
    })
  const feedForward = (prefix: string) => {
    add(`${prefix}gate_proj.weight`, ffn, hidden)
    add(`${prefix}up_proj.weight`, ffn, hidden)
    add(`${prefix}down_proj.weight`, hidden, ffn)
  }
  add('model.embed_tokens.weight', shape.vocab, hidden)
  for (let i = 0; i < shape.layers; i++) {
    const layer = `model.layers.${i}.`
    add(`${layer}input_layernorm.weight`, hidden)
    add(`${layer}self_attn.q_proj.weight`, q, hidden)
    add(`${layer}self_attn.k_proj.weight`, kv, hidden)
    add(`${layer}self_attn.v_proj.weight`, kv, hidden)
    add(`${layer}self_attn.q_norm.weight`, headDim)
    add(`${layer}self_attn.k_norm.weight`, headDim)
    add(`${layer}self_attn.o_proj.weight`, hidden, q)
    add(`${layer}post_attention_layernorm.weight`, hidden)
    if (shape.experts === 0) feedForward(`${layer}mlp.`)
    else add(`${layer}mlp.gate.weight`, shape.experts, hidden)
    for (let e = 0; e < shape.experts; e++) feedForward(`${layer}mlp.experts.${e}.`)
  }
  add('model.norm.weight', hidden)
  return all
}
