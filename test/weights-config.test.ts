import { describe, expect, test } from 'vitest'
import { Qwen3Error } from '../lib/errors'
import { estimateMemory, expectedTensors, familyConfig, familyRows, parseConfig, yarnFor } from '../lib/weights'
import type { JsonObject } from '../lib/weights/json'
import { shapeGroups } from '../lib/weights/tensors'
import { smallConfig, smallMoeConfig } from './helpers/safetensors'

const parse = (config: Record<string, unknown>) => parseConfig(structuredClone(config) as JsonObject, 'config.json')

function refusal(config: Record<string, unknown>): { code: string; subject?: string } {
  try {
    parse(config)
  } catch (error) {
    if (error instanceof Qwen3Error) return { code: error.code, ...(error.subject && { subject: error.subject }) }
    throw error
  }
  return { code: 'accepted' }
}

describe('fields that are honoured', () => {
  test('a dense config', () => {
    const { native, architecture, eosTokenIds, ignoredFields } = parse(smallConfig())
    expect(architecture).toBe('qwen3')
    expect(native).toEqual({
      layers: 1,
      hidden: 128,
      qHeads: 2,
      kvHeads: 1,
      headDim: 128,
      ffn: 128,
      vocab: 64,
      rmsNormEps: 1e-6,
      ropeTheta: 1e6,
      tiedEmbeddings: true,
      nativeWindow: 256,
      experts: 0,
      topKExperts: 0,
      moeFfn: 0,
      normTopkProb: false,
      moeLayers: new Uint8Array(1),
    })
    expect(eosTokenIds).toEqual([1])
    expect(ignoredFields).toEqual([])
  })

  test('sparse layers follow decoder_sparse_step and mlp_only_layers', () => {
    const layers = (changes: Record<string, unknown>) => [
      ...parse(smallMoeConfig({ num_hidden_layers: 6, ...changes })).native.moeLayers,
    ]
    expect(layers({})).toEqual([1, 1, 1, 1, 1, 1])
    expect(layers({ mlp_only_layers: [0, 5] })).toEqual([0, 1, 1, 1, 1, 0])
    expect(layers({ decoder_sparse_step: 2 })).toEqual([0, 1, 0, 1, 0, 1])
    expect(layers({ decoder_sparse_step: 3, mlp_only_layers: [2] })).toEqual([0, 0, 0, 0, 0, 1])
    const { native } = parse(smallMoeConfig({ norm_topk_prob: false }))
    expect(native).toMatchObject({ experts: 4, topKExperts: 2, moeFfn: 128, normTopkProb: false })
  })

  test('rope_theta, or rope_parameters of newer configs', () => {
    expect(parse(smallConfig({ rope_theta: 5_000_000 })).native.ropeTheta).toBe(5e6)
    const newer = smallConfig({ rope_parameters: { rope_type: 'default', rope_theta: 1e7 } })
    delete newer.rope_theta
    expect(parse(newer).native.ropeTheta).toBe(1e7)
    const neither = smallConfig()
    delete neither.rope_theta
    expect(refusal(neither)).toEqual({ code: 'BAD_MODEL_FILE', subject: 'rope_theta' })
    expect(refusal(smallConfig({ rope_theta: null }))).toEqual({ code: 'BAD_MODEL_FILE', subject: 'rope_theta' })
  })

  test.each([
    ['hybrid: 40,960 means 32,768', { max_position_embeddings: 40_960 }, 32_768],
    ['2507: as it says', { max_position_embeddings: 262_144 }, 262_144],
    ['32,768', { max_position_embeddings: 32_768 }, 32_768],
    [
      'YaRN: its original window',
      {
        max_position_embeddings: 40_960,
        rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 16_384 },
      },
      16_384,
    ],
    ['YaRN without one', { max_position_embeddings: 40_960, rope_scaling: { type: 'yarn', factor: 4 } }, 32_768],
  ])('native window, %s', (_, changes, window) => {
    expect(parse(smallConfig(changes)).native.nativeWindow).toBe(window)
  })

  test('YaRN with all its fields, in both places', () => {
    const yarn = {
      rope_type: 'yarn',
      factor: 4,
      original_max_position_embeddings: 128,
      beta_fast: 16,
      beta_slow: 2,
      attention_factor: 1.2,
    }
    const expected = { factor: 4, originalMaxPositionEmbeddings: 128, betaFast: 16, betaSlow: 2, attentionFactor: 1.2 }
    expect(parse(smallConfig({ rope_scaling: yarn })).yarn).toEqual(expected)
    expect(parse(smallConfig({ rope_theta: null, rope_parameters: { ...yarn, rope_theta: 1e6 } })).yarn).toEqual(
      expected,
    )
  })
})

describe('fields that are refused by name', () => {
  test.each([
    ['model_type', { model_type: 'llama' }],
    ['model_type', { model_type: 'qwen3_next' }],
    ['architectures', { architectures: ['Qwen3ForSequenceClassification'] }],
    ['architectures', { architectures: ['Qwen3MoeForCausalLM'] }],
    ['attention_bias', { attention_bias: true }],
    ['hidden_act', { hidden_act: 'gelu' }],
    ['use_sliding_window', { use_sliding_window: true, sliding_window: 4096 }],
    ['layer_types', { layer_types: ['sliding_attention'] }],
    ['quantization_config', { quantization_config: { quant_method: 'gptq', bits: 4 } }],
    ['quantization', { quantization: { bits: 4 } }],
    ['dual_chunk_attention_config', { dual_chunk_attention_config: { chunk_size: 8192 } }],
    ['shared_expert_intermediate_size', { shared_expert_intermediate_size: 512 }],
    ['final_logit_softcapping', { final_logit_softcapping: 30 }],
    ['residual_multiplier', { residual_multiplier: 0.5 }],
    ['num_experts', { num_experts: 8 }],
    ['rope_scaling.rope_type', { rope_scaling: { rope_type: 'dynamic', factor: 2 } }],
    ['rope_scaling.rope_type', { rope_scaling: { rope_type: 'llama3', factor: 2 } }],
    ['rope_scaling.rope_type', { rope_scaling: { type: 'linear', factor: 2 } }],
    ['rope_scaling.mrope_section', { rope_scaling: { rope_type: 'default', mrope_section: [16, 24, 24] } }],
    [
      'rope_scaling.mscale',
      { rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64, mscale: 1 } },
    ],
    [
      'rope_scaling.truncate',
      { rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64, truncate: false } },
    ],
    ['rope_parameters.partial_rotary_factor', { rope_parameters: { rope_theta: 1e6, partial_rotary_factor: 0.5 } }],
  ])('%s (%o)', (subject, changes) => {
    expect(refusal(smallConfig(changes))).toEqual({ code: 'UNSUPPORTED', subject })
  })

  test('the same fields switched off are harmless, unknown harmless ones are listed', () => {
    const config = smallConfig({
      quantization_config: null,
      dual_chunk_attention_config: null,
      shared_expert_intermediate_size: 0,
      my_note: 'x',
      attention_dropout: 0.1,
    })
    expect(parse(config).ignoredFields).toEqual([
      'quantization_config',
      'dual_chunk_attention_config',
      'shared_expert_intermediate_size',
      'my_note',
    ])
  })
})

describe('values that make no model', () => {
  const wrong: [string, unknown][] = []
  const sizes = [
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'head_dim',
    'hidden_size',
    'intermediate_size',
    'vocab_size',
    'max_position_embeddings',
  ]
  for (const field of sizes) {
    for (const value of [0, -1, 1.5, '4', [], {}, true, 1e9 + 0.5, 1e18, 2 ** 53, null]) wrong.push([field, value])
  }
  wrong.push(
    ['num_hidden_layers', 1e9],
    ['num_attention_heads', 1e9],
    ['head_dim', 127],
    ['vocab_size', 2 ** 31],
    ['num_key_value_heads', 3],
  )
  for (const value of [0, -1, 2, '1e-6', true, [], {}]) wrong.push(['rms_norm_eps', value])
  for (const value of [0, -1, 1, '1e6', true, [], 1e300]) wrong.push(['rope_theta', value])
  for (const value of ['true', 1, [], {}])
    wrong.push(['tie_word_embeddings', value], ['attention_bias', value], ['use_sliding_window', value])
  for (const value of [-1, 1.5, 'x', {}, [1, -1], ['x'], 2 ** 40, Array(2000).fill(1)])
    wrong.push(['eos_token_id', value])
  for (const value of [1, 'yarn', [], true]) wrong.push(['rope_scaling', value])
  for (const value of [1, null, [], {}]) wrong.push(['model_type', value])
  test.each(wrong)('%s = %o', (field, value) => {
    const { code, subject } = refusal(smallConfig({ [field]: value }))
    expect(code).toBe('BAD_MODEL_FILE')
    expect(subject).toBe(field)
  })

  const moe: [string, unknown][] = []
  for (const value of [0, -1, 1e9, '4', null, 1.5]) moe.push(['num_experts', value], ['moe_intermediate_size', value])
  for (const value of [0, 5, -1, '2', null]) moe.push(['num_experts_per_tok', value])
  for (const value of [0, -1, 1e9, '1']) moe.push(['decoder_sparse_step', value])
  for (const value of [[1], [-1], ['0'], 0, {}, [0.5]]) moe.push(['mlp_only_layers', value])
  for (const value of [1, 'true']) moe.push(['norm_topk_prob', value])
  test.each(moe)('mixture of experts: %s = %o', (field, value) => {
    const { code, subject } = refusal(smallMoeConfig({ [field]: value }))
    expect(code).toBe('BAD_MODEL_FILE')
    expect(subject).toBe(field)
  })

  test.each([
    ['factor', 0],
    ['factor', -4],
    ['factor', 0.5],
    ['factor', '4'],
    ['factor', null],
    ['factor', 1e9],
    ['original_max_position_embeddings', 0],
    ['original_max_position_embeddings', 1.5],
    ['original_max_position_embeddings', '32768'],
    ['beta_fast', 0],
    ['beta_slow', -1],
    ['attention_factor', 0],
    ['attention_factor', 'x'],
  ])('YaRN: %s = %o', (field, value) => {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 128, [field]: value }
    expect(refusal(smallConfig({ rope_scaling: yarn }))).toEqual({
      code: 'BAD_MODEL_FILE',
      subject: `rope_scaling.${field}`,
    })
  })

  test('messages say expected and received', () => {
    expect(() => parse(smallConfig({ num_attention_heads: 'many' }))).toThrow(
      /num_attention_heads: expected a whole number from 1 to \d+, received "many"/,
    )
    expect(() => parse(smallConfig({ num_attention_heads: 3, num_key_value_heads: 2 }))).toThrow(
      /a divisor of num_attention_heads \(3\), received 2/,
    )
  })
})

describe('tensors, memory and scaling', () => {
  test('the published sizes', () => {
    const billions = (row: string) => {
      const config = familyConfig(row, 1000)!
      return expectedTensors(config).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0) / 1e9
    }
    // The family's names say the parameters, embeddings included.
    expect(billions('qwen3-0.6b')).toBeCloseTo(0.596, 2)
    expect(billions('qwen3-1.7b')).toBeCloseTo(1.72, 2)
    expect(billions('qwen3-4b')).toBeCloseTo(4.02, 2)
    expect(billions('qwen3-8b')).toBeCloseTo(8.19, 2)
    expect(billions('qwen3-14b')).toBeCloseTo(14.77, 2)
    expect(billions('qwen3-32b')).toBeCloseTo(32.76, 2)
    expect(billions('qwen3-30b-a3b')).toBeCloseTo(30.53, 2)
    expect(billions('qwen3-235b-a22b')).toBeCloseTo(235.09, 1)
  })

  test('counting by shape counts the same tensors', () => {
    const sum = (list: { shape: number[]; count?: number }[]) =>
      list.reduce((total, { shape, count = 1 }) => total + count * shape.reduce((a, b) => a * b, 1), 0)
    const mixed = parse(
      smallMoeConfig({ num_hidden_layers: 5, mlp_only_layers: [1, 4], tie_word_embeddings: false }),
    ).native
    for (const config of [mixed, ...familyRows.map((row) => familyConfig(row, 640)!)]) {
      expect(sum(shapeGroups(config))).toBe(sum(expectedTensors(config)))
      expect(shapeGroups(config).reduce((total, { count }) => total + count, 0)).toBe(expectedTensors(config).length)
    }
  })

  test('every row is a valid config', () => {
    for (const row of familyRows) {
      const config = familyConfig(row, 640)!
      expect(config.qHeads % config.kvHeads).toBe(0)
      expect(config.moeLayers.length).toBe(config.layers)
      expect(expectedTensors(config).every(({ shape }) => shape.every((n) => n > 0))).toBe(true)
    }
    expect(familyConfig('toString', 1)).toBeUndefined()
  })

  test('memory is weights plus whole cache blocks', () => {
    const config = familyConfig('qwen3-0.6b', 0)!
    const estimate = estimateMemory({ config }, { contextLength: 1000, weights: 'bf16', kvCache: 'bf16' })
    expect(estimate.kvBytesPerToken).toBe(2 * 28 * 8 * 128 * 2)
    expect(estimate.kvCacheBytes).toBe(1024 * estimate.kvBytesPerToken)
    expect(estimate.weightBytes / 1e9).toBeCloseTo(1.19, 2)
    expect(estimate.totalBytes).toBe(estimate.weightBytes + estimate.kvCacheBytes)
    const int8 = estimateMemory({ config }, { contextLength: 1000, weights: 'bf16', kvCache: 'int8' })
    expect(int8.kvBytesPerToken).toBe(2 * 28 * 8 * (128 + 4))
    for (const contextLength of [0, -1, NaN, 1.5]) {
      expect(() => estimateMemory({ config }, { contextLength, weights: 'bf16', kvCache: 'bf16' })).toThrow(
        /contextLength: expected/,
      )
    }
  })

  test('memory of each format: groups carry their scales, tied tables count once where they agree', () => {
    const config = familyConfig('qwen3-0.6b', 0)!
    const table = config.vocab * config.hidden
    const bytes = (options: object) =>
      estimateMemory({ config }, { contextLength: 1, weights: 'bf16', kvCache: 'bf16', ...options }).weightBytes
    const matrices = bytes({}) / 2
    expect(bytes({ weights: 'int8' }) / matrices).toBeCloseTo(8.25 / 8, 2)
    expect(bytes({ weights: 'int4' }) / matrices).toBeCloseTo(4.5 / 8, 2)
    expect(bytes({ weights: 'int4-offset' }) / matrices).toBeCloseTo(4.75 / 8, 2)
    expect(bytes({ headWeights: 'int8' }) - bytes({})).toBe((table * 8.25) / 8)
    expect(bytes({}) - bytes({ headWeights: 'int8', embeddingWeights: 'int8' })).toBe(table * (2 - 8.25 / 8))
  })

  test('yarnFor', () => {
    const config = familyConfig('qwen3-8b', 0)!
    const own = { factor: 4, originalMaxPositionEmbeddings: 32_768, betaFast: 16, betaSlow: 2 }
    expect(yarnFor({ config }, { contextLength: 32_768, rope: 'auto' })).toBeUndefined()
    expect(yarnFor({ config }, { contextLength: 65_536, rope: 'none' })).toBeUndefined()
    expect(yarnFor({ config }, { contextLength: 65_536, rope: 'auto' })).toEqual({
      factor: 2,
      originalMaxPositionEmbeddings: 32_768,
      betaFast: 32,
      betaSlow: 1,
    })
    expect(yarnFor({ config }, { contextLength: 1000, rope: 'auto', yarnFactor: 3 })?.factor).toBe(3)
    expect(yarnFor({ config, yarn: own }, { contextLength: 65_536, rope: 'auto' })).toEqual({ ...own, factor: 2 })
    expect(yarnFor({ config, yarn: own }, { contextLength: 1000, rope: 'static' })).toEqual(own)
  })
})
