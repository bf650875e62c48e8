import type { NativeConfig, NativeYarn } from '../native'
import { Fields } from './fields'
import type { Json, JsonObject } from './json'

/** What config.json says, validated. */
export interface ModelConfig {
  architecture: 'qwen3' | 'qwen3_moe'
  native: NativeConfig
  /** The file's own `rope_scaling`, when it has one. */
  yarn?: NativeYarn
  maxPositionEmbeddings: number
  /** `eos_token_id`; generation_config.json goes before it. */
  eosTokenIds: number[]
  /** Fields of no known effect that were not read. */
  ignoredFields: string[]
}

const ARCHITECTURES: ReadonlyMap<string, string> = new Map([
  ['Qwen3ForCausalLM', 'qwen3'],
  ['Qwen3Model', 'qwen3'],
  ['Qwen3MoeForCausalLM', 'qwen3_moe'],
  ['Qwen3MoeModel', 'qwen3_moe'],
])

/** Fields that this file reads, or that cannot change an inference result. */
const KNOWN_FIELDS = new Set(
  `architectures model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
   num_key_value_heads head_dim hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings rope_theta
   rope_scaling rope_parameters attention_bias use_sliding_window sliding_window max_window_layers layer_types
   num_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers
   bos_token_id eos_token_id pad_token_id
   initializer_range use_cache attention_dropout torch_dtype dtype transformers_version output_router_logits
   router_aux_loss_coef _name_or_path pretraining_tp auto_map id2label label2id problem_type`.split(/\s+/),
)

/** Unknown fields with such names are refused when they are set: they look like a change of the computation. */
const SUSPICIOUS =
  /quant|softcap|logit|multiplier|scal|bias|sink|sliding|window|alibi|expert|moe|chunk|lora|adapter|norm|rope|rotary|sparse|attn|attention|residual|mlp|layer|head|gate|mtp|nextn|vision|audio|act/

/** Real models stay far below these; they keep every product of sizes well inside 2^53. */
const LIMITS = { layers: 4096, hidden: 1 << 20, heads: 1 << 14, headDim: 4096, vocab: 1 << 24, experts: 1 << 14 }

/**
 * Turns a config.json of `qwen3` or `qwen3_moe` into a NativeConfig. Every field that shapes the result is honoured or
 * refused by name (`UNSUPPORTED`); wrong types, sizes that make no model and missing fields are `BAD_MODEL_FILE`.
 * Absent optional fields take the defaults of the published configuration classes; `rope_theta` has none, since the
 * family uses three different ones.
 */
export function parseConfig(json: JsonObject, path: string): ModelConfig {
  const fields = new Fields(json, path)
  const architecture = readArchitecture(fields)
  refuseUnsupported(fields)
  const native = readShape(fields, architecture)
  const rope = readRope(fields)
  native.ropeTheta = rope.theta
  native.nativeWindow = nativeWindow(fields, rope.yarn)
  return {
    architecture,
    native,
    ...(rope.yarn && { yarn: rope.yarn }),
    maxPositionEmbeddings: fields.integer('max_position_embeddings', 1, 2 ** 31 - 1),
    eosTokenIds: readTokenIds(fields, 'eos_token_id'),
    ignoredFields: fields.names().filter((name) => !KNOWN_FIELDS.has(name)),
  }
}

/** One id or a list of ids; absent = none. */
export function readTokenIds(fields: Fields, name: string): number[] {
  const value = fields.get(name)
  if (value === undefined) return []
  const ids = Array.isArray(value) ? value : [value]
  const valid = (id: Json): id is number =>
    typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < LIMITS.vocab
  if (ids.length > 1000 || !ids.every(valid)) throw fields.wrong(name, 'token ids', value)
  return [...new Set(ids)]
}

function readArchitecture(fields: Fields): 'qwen3' | 'qwen3_moe' {
  const type = fields.string('model_type')
  if (type !== 'qwen3' && type !== 'qwen3_moe') {
    throw fields.unsupported(
      'model_type',
      `${JSON.stringify(type.slice(0, 60))} is another architecture; this engine runs qwen3 and qwen3_moe.`,
    )
  }
  const names = fields.get('architectures')
  if (names !== undefined) {
    if (!Array.isArray(names)) throw fields.wrong('architectures', 'a list of names', names)
    const wrong = names.find((name) => typeof name !== 'string' || ARCHITECTURES.get(name) !== type)
    if (wrong !== undefined) {
      throw fields.unsupported(
        'architectures',
        `${JSON.stringify(wrong).slice(0, 80)} is not a ${type} language model.`,
      )
    }
  }
  return type
}

function refuseUnsupported(fields: Fields): void {
  if (fields.boolean('attention_bias', false))
    throw fields.unsupported('attention_bias', 'projections with a bias are not supported.')
  const act = fields.string('hidden_act', 'silu')
  if (act !== 'silu')
    throw fields.unsupported('hidden_act', `${JSON.stringify(act.slice(0, 40))} is not supported; Qwen3 uses silu.`)
  if (fields.boolean('use_sliding_window', false))
    throw fields.unsupported('use_sliding_window', 'sliding windows are not supported.')
  const types = fields.get('layer_types')
  if (types !== undefined && !(Array.isArray(types) && types.every((type) => type === 'full_attention'))) {
    throw fields.unsupported('layer_types', 'only full_attention layers are supported.')
  }
  const method = fields.nested('quantization_config')?.get('quant_method')
  if (fields.get('quantization_config') !== undefined) {
    throw fields.unsupported(
      'quantization_config',
      `quantised weights (${JSON.stringify(method ?? 'unknown method').slice(0, 60)}) are not supported yet; load the bf16 model.`,
    )
  }
  for (const name of fields.names()) {
    if (!KNOWN_FIELDS.has(name) && SUSPICIOUS.test(name) && isSet(fields.get(name))) {
      throw fields.unsupported(name.slice(0, 100), 'this field may change the result and is not supported.')
    }
  }
}

/** Whether a field of unknown meaning asks for something: null, false, 0 and empty values do not. */
function isSet(value: Json | undefined): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length > 0
  return Boolean(value)
}

function readShape(fields: Fields, architecture: 'qwen3' | 'qwen3_moe'): NativeConfig {
  const layers = fields.integer('num_hidden_layers', 1, LIMITS.layers)
  const qHeads = fields.integer('num_attention_heads', 1, LIMITS.heads)
  const kvHeads = fields.integer('num_key_value_heads', 1, LIMITS.heads)
  if (qHeads % kvHeads !== 0) {
    throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads (${qHeads})`, kvHeads)
  }
  // Published configs always write head_dim, and hidden / heads is not it for most sizes: no default.
  const headDim = fields.integer('head_dim', 2, LIMITS.headDim)
  if (headDim % 2 !== 0) throw fields.wrong('head_dim', 'an even number', headDim)
  const moe = readExperts(fields, architecture, layers)
  const allSparse = moe.moeLayers.every((flag) => flag === 1)
  const ffn =
    allSparse && architecture === 'qwen3_moe'
      ? fields.integer('intermediate_size', 0, LIMITS.hidden, 0)
      : fields.integer('intermediate_size', 1, LIMITS.hidden)
  return {
    layers,
    hidden: fields.integer('hidden_size', 1, LIMITS.hidden),
    qHeads,
    kvHeads,
    headDim,
    ffn,
    vocab: fields.integer('vocab_size', 1, LIMITS.vocab),
    rmsNormEps: fields.number('rms_norm_eps', 0, 1, 1e-6),
    ropeTheta: 0,
    tiedEmbeddings: fields.boolean('tie_word_embeddings', false),
    nativeWindow: 0,
    ...moe,
  }
}

type Experts = Pick<NativeConfig, 'experts' | 'topKExperts' | 'moeFfn' | 'normTopkProb' | 'moeLayers'>

/** Layer i is sparse when it is not listed in mlp_only_layers and (i + 1) is a multiple of decoder_sparse_step. */
function readExperts(fields: Fields, architecture: 'qwen3' | 'qwen3_moe', layers: number): Experts {
  const moeLayers = new Uint8Array(layers)
  if (architecture === 'qwen3') {
    for (const name of ['num_experts', 'num_experts_per_tok', 'moe_intermediate_size']) {
      if (isSet(fields.get(name)))
        throw fields.unsupported(name, 'a dense qwen3 model has no experts; model_type must be qwen3_moe.')
    }
    return { experts: 0, topKExperts: 0, moeFfn: 0, normTopkProb: false, moeLayers }
  }
  const experts = fields.integer('num_experts', 1, LIMITS.experts)
  const topKExperts = fields.integer('num_experts_per_tok', 1, experts)
  const step = fields.integer('decoder_sparse_step', 1, LIMITS.layers, 1)
  const dense = fields.get('mlp_only_layers') ?? []
  const isLayer = (i: Json) => typeof i === 'number' && Number.isInteger(i) && i >= 0 && i < layers
  if (!Array.isArray(dense) || !dense.every(isLayer))
    throw fields.wrong('mlp_only_layers', `layers from 0 to ${layers - 1}`, dense)
  const listed = new Set(dense)
  for (let i = 0; i < layers; i++) moeLayers[i] = !listed.has(i) && (i + 1) % step === 0 ? 1 : 0
  return {
    experts,
    topKExperts,
    moeFfn: fields.integer('moe_intermediate_size', 1, LIMITS.hidden),
    normTopkProb: fields.boolean('norm_topk_prob', false),
    moeLayers,
  }
}

const ROPE_FIELDS = new Set(
  'rope_type type rope_theta factor original_max_position_embeddings beta_fast beta_slow attention_factor truncate partial_rotary_factor'.split(
    ' ',
  ),
)

/** `rope_theta` with `rope_scaling`, or both inside `rope_parameters` (newer configs). */
function readRope(fields: Fields): { theta: number; yarn?: NativeYarn } {
  const scaling = fields.nested('rope_parameters') ?? fields.nested('rope_scaling')
  const holder = scaling?.get('rope_theta') !== undefined ? scaling : fields
  if (holder.get('rope_theta') === undefined) {
    throw fields.wrong(
      'rope_theta',
      'a number here or in rope_parameters (there is no default: the family uses several)',
      undefined,
    )
  }
  const theta = holder.number('rope_theta', 1, 1e12)
  if (scaling === undefined) return { theta }
  const type = scaling.string('rope_type', scaling.string('type', 'default'))
  if (type !== 'default' && type !== 'yarn')
    throw scaling.unsupported(
      'rope_type',
      `${JSON.stringify(type.slice(0, 40))} is not supported; yarn and default are.`,
    )
  const unknown = scaling.names().find((name) => !ROPE_FIELDS.has(name) && isSet(scaling.get(name)))
  if (unknown !== undefined)
    throw scaling.unsupported(unknown.slice(0, 100), 'this field may change the result and is not supported.')
  if (scaling.number('partial_rotary_factor', 0, 1, 1) !== 1)
    throw scaling.unsupported('partial_rotary_factor', 'only 1 is supported.')
  if (!scaling.boolean('truncate', true)) throw scaling.unsupported('truncate', 'only true is supported.')
  if (type === 'default') return { theta }
  const original = scaling.get('original_max_position_embeddings') ?? fallbackWindow(fields)
  if (typeof original !== 'number' || !Number.isInteger(original) || original < 1 || original >= 2 ** 31) {
    throw scaling.wrong('original_max_position_embeddings', 'a whole number of tokens', original)
  }
  const yarn: NativeYarn = {
    factor: scaling.number('factor', 1, 1024, undefined, true),
    originalMaxPositionEmbeddings: original,
    betaFast: scaling.number('beta_fast', 0, 1e6, 32),
    betaSlow: scaling.number('beta_slow', 0, 1e6, 1),
  }
  if (scaling.get('attention_factor') !== undefined) yarn.attentionFactor = scaling.number('attention_factor', 0, 100)
  return { theta, yarn }
}

function nativeWindow(fields: Fields, yarn: NativeYarn | undefined): number {
  return yarn?.originalMaxPositionEmbeddings ?? fallbackWindow(fields)
}

/** The hybrid models say 40,960 = 32,768 + 8,192 for the answer; they were trained on 32,768. */
function fallbackWindow(fields: Fields): number {
  const positions = fields.integer('max_position_embeddings', 1, 2 ** 31 - 1)
  return positions === 40_960 ? 32_768 : positions
}
