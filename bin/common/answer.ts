/** Printing an answer while it is generated. */
import type { ChatResult, ChatStream } from '../../lib/index'
import { printable, style, styled, write } from './terminal'

/** Where thinking goes: dimmed on the terminal; a pipe gets the answer alone unless asked otherwise. */
export type ThinkingOutput = 'stdout' | 'stderr' | 'none'

export function thinkingOutput(choice: boolean | undefined): ThinkingOutput {
  if (choice === false) return 'none'
  if (process.stdout.isTTY) return 'stdout'
  return choice === true || process.stderr.isTTY ? 'stderr' : 'none'
}

/** Prints thinking and text as they come, tool calls as one JSON line each. The result, when the stream has ended. */
export async function printAnswer(stream: ChatStream, thinking: ThinkingOutput): Promise<ChatResult> {
  const thoughts = thinking === 'stderr' ? process.stderr : process.stdout
  const out = process.stdout
  let dimmed = false
  let last = '\n'
  const endThoughts = async () => {
    if (!dimmed) return
    dimmed = false
    await write(thoughts, `${style(thoughts, 'reset')}${last === '\n' ? '' : '\n'}${thoughts === out ? '\n' : ''}`)
    last = '\n'
  }
  try {
    for await (const event of stream) {
      if (event.type === 'thinking' && thinking !== 'none' && event.text) {
        const text = dimmed ? event.text : event.text.trimStart()
        if (!text) continue
        await write(thoughts, (dimmed ? '' : style(thoughts, 'dim')) + printable(thoughts, text))
        dimmed = true
        last = text.at(-1)!
      } else if (event.type === 'text' && event.text) {
        await endThoughts()
        await write(out, printable(out, event.text))
        last = event.text.at(-1)!
      } else if (event.type === 'toolCall') {
        await endThoughts()
        await write(out, `${last === '\n' ? '' : '\n'}${JSON.stringify(event.call)}\n`)
        last = '\n'
      }
    }
  } finally {
    await endThoughts()
    if (last !== '\n') await write(out, '\n')
  }
  return await stream.result()
}

/** One paragraph for --stats: counts by segment and tokens per second of prefill and decode. */
export function statsLines(result: ChatResult): string {
  const { usage } = result
  const { timings } = usage
  const prefilled = usage.promptTokens - usage.cachedTokens
  const rate = (tokens: number, ms: number) => (ms > 0 ? `${((1000 * tokens) / ms).toFixed(1)} tokens/s` : '-')
  const rows: [string, string][] = [
    ['prompt', `${usage.promptTokens} tokens, ${usage.cachedTokens} from the cache`],
    ['thinking', `${usage.thinkingTokens} tokens${result.thinkingStop ? `, ended: ${result.thinkingStop}` : ''}`],
    ['answer', `${usage.answerTokens} tokens, ended: ${result.finishReason}`],
    ['other', `${usage.toolCallTokens} tool call, ${usage.forcedTokens} wrap-up`],
    ['prefill', `${rate(prefilled, timings.prefillMs)} (${timings.prefillMs.toFixed(0)} ms)`],
    ['decode', `${rate(usage.completionTokens, timings.decodeMs)} (${timings.decodeMs.toFixed(0)} ms)`],
    ['first token', `${timings.firstTokenMs.toFixed(0)} ms`],
    ...(usage.draftTokens > 0
      ? [['drafts', `${usage.draftTokens} tokens, ${usage.acceptedTokens} accepted`] as [string, string]]
      : []),
    ['seed', String(result.seed)],
  ]
  const lines = rows.map(([name, value]) => `${name.padEnd(12)}${value}\n`).join('')
  return styled(process.stderr, 'dim', lines)
}

/** A result as plain JSON: typed arrays become lists. */
export function jsonResult(model: string, result: ChatResult): string {
  return JSON.stringify({ model, ...result, ids: [...result.ids] })
}
