import type { GenerateOptions } from '../types'
import type { GenerationConfig } from '../weights'

/** The sampling settings of one request, all decided. */
export interface Sampling {
  temperature: number
  topP: number
  topK: number
  minP: number
  presencePenalty: number
  frequencyPenalty: number
  repetitionPenalty: number
}

const NEUTRAL = { minP: 0, presencePenalty: 0, frequencyPenalty: 0, repetitionPenalty: 1 }

/**
 * The family's recommendations (Qwen3 Technical Report, section 4.7, and the model cards). The report's evaluation without
 * thinking adds a presence penalty of 1.5; the cards call 0 to 2 a remedy against repetition, so it is off unless asked for.
 */
export const presets: Readonly<Record<'thinking' | 'nonThinking', Sampling>> = {
  thinking: { temperature: 0.6, topP: 0.95, topK: 20, ...NEUTRAL },
  nonThinking: { temperature: 0.7, topP: 0.8, topK: 20, ...NEUTRAL },
}

/**
 * Explicit options go before generation_config.json, and that before the preset. A hybrid model's file describes only one
 * of its two modes, so `fileApplies` is false for it.
 */
export function decideSampling(
  options: GenerateOptions,
  file: GenerationConfig,
  mode: { thinking: boolean; fileApplies: boolean },
): Sampling {
  const preset = mode.thinking ? presets.thinking : presets.nonThinking
  const own = mode.fileApplies ? file : undefined
  return {
    temperature: options.temperature ?? own?.temperature ?? preset.temperature,
    topP: options.topP ?? own?.topP ?? preset.topP,
    topK: options.topK ?? own?.topK ?? preset.topK,
    minP: options.minP ?? own?.minP ?? preset.minP,
    presencePenalty: options.presencePenalty ?? own?.presencePenalty ?? preset.presencePenalty,
    frequencyPenalty: options.frequencyPenalty ?? preset.frequencyPenalty,
    repetitionPenalty: options.repetitionPenalty ?? own?.repetitionPenalty ?? preset.repetitionPenalty,
  }
}
