import { Qwen3Error, received } from '../errors'
import type { ChatMessage, Tool } from '../types'
import { invalid, plainJson, type Size } from './plain'

/** A message as templates expect it. */
export interface TemplateMessage {
  role: 'system' | 'user' | 'assistant' | 'tool'
  content: string
  reasoning_content?: string
  tool_calls?: { id?: string; type: 'function'; function: { name: string; arguments: unknown } }[]
  tool_call_id?: string
  name?: string
}

const MAX_MESSAGES = 100_000
const ROLES = ['system', 'developer', 'user', 'assistant', 'tool']

/**
 * Checks messages in OpenAI's shape and brings them into the one shape that templates know: developer turns are system
 * turns, text parts are joined by line breaks, null content of assistant and tool turns is empty, `reasoning` is read as
 * `reasoning_content`. Fields that no template of the family reads are dropped; above all a message cannot set a
 * template's own variables. Throws `INVALID_ARGUMENT` with the place, `UNSUPPORTED` for parts that are not text.
 */
export function normaliseMessages(messages: string | readonly ChatMessage[], size: Size): TemplateMessage[] {
  if (typeof messages === 'string') {
    size.chars += messages.length
    size.values += 2
    return [{ role: 'user', content: messages }]
  }
  if (!Array.isArray(messages)) throw invalid('messages', 'a string or an array of messages', received(messages))
  if (messages.length === 0) throw invalid('messages', 'at least one message', 'an empty array')
  if (messages.length > MAX_MESSAGES)
    throw invalid('messages', `at most ${MAX_MESSAGES} messages`, String(messages.length))
  return messages.map((message, i) => normaliseMessage(message, `messages[${i}]`, size))
}

function normaliseMessage(message: ChatMessage, at: string, size: Size): TemplateMessage {
  if (typeof message !== 'object' || message === null || Array.isArray(message))
    throw invalid(at, 'a message object', received(message))
  const { role } = message
  if (!ROLES.includes(role)) throw invalid(`${at}.role`, ROLES.join(', '), received(role))
  const mayBeEmpty = role === 'assistant' || role === 'tool'
  const result: TemplateMessage = {
    role: role === 'developer' ? 'system' : role,
    content: textOf(message.content, `${at}.content`, mayBeEmpty),
  }
  size.values += 8
  size.chars += result.content.length
  if (role === 'assistant') {
    const given = message as ChatMessage & { reasoning?: string | null }
    const reasoning = given.reasoning_content ?? given.reasoning
    if (reasoning !== undefined && reasoning !== null) {
      result.reasoning_content = textOf(reasoning, `${at}.reasoning_content`, false)
      size.chars += result.reasoning_content.length
    }
    if (message.tool_calls !== undefined && message.tool_calls !== null) {
      const calls = normaliseCalls(message.tool_calls, `${at}.tool_calls`, size)
      if (calls.length > 0) result.tool_calls = calls
    }
  }
  for (const field of ['tool_call_id', 'name'] as const) {
    const value = message[field]
    if (value === undefined || value === null) continue
    result[field] = textOf(value, `${at}.${field}`, false)
    size.chars += value.length
  }
  return result
}

function textOf(content: unknown, at: string, mayBeEmpty: boolean): string {
  if (typeof content === 'string') return content
  if (content === null || content === undefined) {
    if (mayBeEmpty) return ''
    throw invalid(at, 'a string or text parts', String(content))
  }
  if (!Array.isArray(content)) throw invalid(at, 'a string or text parts', received(content))
  const texts = content.map((part: unknown, i) => {
    const { type, text } = (typeof part === 'object' && part !== null ? part : {}) as { type?: unknown; text?: unknown }
    if (typeof type === 'string' && type !== 'text') {
      throw new Qwen3Error(
        'UNSUPPORTED',
        `${at}[${i}]: parts of type ${received(type)} are not supported; the model reads text only.`,
        { subject: `${at}[${i}]` },
      )
    }
    if (typeof text !== 'string') throw invalid(`${at}[${i}]`, '{ type: "text", text }', received(part))
    return text
  })
  return texts.join('\n')
}

/** Calls in OpenAI's shape, or as `result.toolCalls` gives them. Arguments given as text are printed as they are. */
function normaliseCalls(calls: unknown, at: string, size: Size): NonNullable<TemplateMessage['tool_calls']> {
  if (!Array.isArray(calls)) throw invalid(at, 'an array of tool calls', received(calls))
  return calls.map((call: unknown, i) => {
    const place = `${at}[${i}]`
    if (typeof call !== 'object' || call === null) throw invalid(place, 'a tool call', received(call))
    const outer = call as { id?: unknown; function?: unknown }
    const inner = (outer.function ?? outer) as { name?: unknown; arguments?: unknown }
    if (typeof inner !== 'object' || inner === null)
      throw invalid(`${place}.function`, '{ name, arguments }', received(inner))
    if (typeof inner.name !== 'string' || inner.name === '')
      throw invalid(`${place}.function.name`, 'a name', received(inner.name))
    if (outer.id !== undefined && outer.id !== null && typeof outer.id !== 'string')
      throw invalid(`${place}.id`, 'a string', received(outer.id))
    const args = inner.arguments ?? {}
    if (typeof args !== 'string' && (typeof args !== 'object' || Array.isArray(args))) {
      throw invalid(`${place}.function.arguments`, 'an object or its JSON text', received(args))
    }
    size.values += 6
    size.chars += inner.name.length
    return {
      ...(typeof outer.id === 'string' && { id: outer.id }),
      type: 'function' as const,
      function: { name: inner.name, arguments: plainJson(args, `${place}.function.arguments`, size) },
    }
  })
}

/** Checks tools in OpenAI's shape; the template prints them as they are. */
export function normaliseTools(tools: readonly Tool[] | undefined | null, size: Size): unknown[] | undefined {
  if (tools === undefined || tools === null) return undefined
  if (!Array.isArray(tools)) throw invalid('tools', 'an array of tools', received(tools))
  if (tools.length > 10_000) throw invalid('tools', 'at most 10000 tools', String(tools.length))
  if (tools.length === 0) return undefined
  return tools.map((tool: Tool, i) => {
    const at = `tools[${i}]`
    if (typeof tool !== 'object' || tool === null) throw invalid(at, 'a tool', received(tool))
    if (tool.type !== 'function') throw invalid(`${at}.type`, '"function"', received(tool.type))
    const name = tool.function?.name
    if (typeof name !== 'string' || name === '') throw invalid(`${at}.function.name`, 'a name', received(name))
    return plainJson(tool, at, size)
  })
}
