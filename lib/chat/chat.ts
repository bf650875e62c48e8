import { Qwen3Error } from '../errors'
import type { ChatMessage, ChatOptions, GenerateOptions, Tool } from '../types'
import type { ModelDescription } from '../weights'
import { EventAssembler } from './events'
import { normaliseMessages, normaliseTools } from './messages'
import { invalid } from './plain'
import { type PlanContext, planChat, planGenerate, type RequestPlan } from './plan'
import { ChatTemplate, type MarkedText } from './template'
import { type ChatTokenizer, controlIds, TokenBytes } from './tokens'

/** What a model's template and vocabulary can do. */
export interface ChatCapabilities {
  /**
   * `hybrid`: thinks or not, as asked. `always`: the template opens `<think>` itself (Thinking-2507). `never`: the template
   * knows no thinking (Instruct-2507). `none`: there is no template; chat() is refused, generate() works.
   */
  thinking: 'hybrid' | 'always' | 'never' | 'none'
  tools: boolean
}

export interface RenderedPrompt extends MarkedText {
  /** The prompt ends inside an open think block. */
  startsInThink: boolean
  /** The model may think after this prompt. */
  thinking: boolean
  tools: boolean
}

export interface RenderOptions {
  thinking?: boolean
  /** 0 = no thinking. */
  thinkingBudget?: number
  tools?: Tool[]
  /** Whether the prompt ends with the opening of an assistant turn. Default true. */
  addGenerationPrompt?: boolean
  /** Further variables for unusual templates; reserved names are refused. */
  templateArguments?: Record<string, unknown>
}

const OPEN = '<think>'
const CLOSE = '</think>'
/** What closes a block that the template opened, as the hybrid templates write an empty one. */
const CLOSED_AT_ONCE = '\n</think>\n\n'

/** The chat side of one model: its template, what it can do, and how requests are planned and read. */
export class Chat {
  readonly capabilities: ChatCapabilities
  private readonly template: ChatTemplate | undefined
  private readonly context: PlanContext
  private readonly bytes: TokenBytes

  private constructor(
    description: ChatDescription,
    private readonly tokenizer: ChatTokenizer,
  ) {
    const ids = controlIds(tokenizer)
    this.bytes = new TokenBytes(tokenizer, description.placeholder)
    this.context = { tokenizer, ids, generationConfig: description.generationConfig }
    const { chatTemplate } = description
    if (chatTemplate !== undefined) {
      const controls = tokenizer.addedTokens().map(({ content }) => content)
      this.template = new ChatTemplate(chatTemplate, controls, description.templateVariables)
    }
    this.capabilities = {
      thinking: this.detectThinking(ids.thinkOpen >= 0 && ids.thinkClose >= 0),
      tools: ids.toolOpen >= 0 && ids.toolClose >= 0 && (chatTemplate?.includes('tools') ?? false),
    }
  }

  /** Compiles the template and finds out what it can do. Throws `BAD_MODEL_FILE` for a template that cannot be used. */
  static create(description: ChatDescription, tokenizer: ChatTokenizer): Chat {
    return new Chat(description, tokenizer)
  }

  /** Checks messages and tools and renders the prompt. A string is one user message. */
  render(messages: string | readonly ChatMessage[], options: RenderOptions = {}): RenderedPrompt {
    const size = { values: 0, chars: 0 }
    const list = normaliseMessages(messages, size)
    const tools = normaliseTools(options.tools, size)
    if (this.template === undefined) {
      throw new Qwen3Error(
        'UNSUPPORTED',
        'This model has no chat template (a base model?); use generate() with a plain prompt.',
        { subject: 'chat_template' },
      )
    }
    if (tools !== undefined && !this.capabilities.tools) {
      throw new Qwen3Error('UNSUPPORTED', "This model's chat template knows no tools.", { subject: 'tools' })
    }
    const wants = this.wantsThinking(options)
    const addGenerationPrompt = options.addGenerationPrompt ?? true
    const rendered = this.template.render(
      {
        messages: list,
        ...(tools && { tools }),
        addGenerationPrompt,
        enableThinking: wants,
        ...(options.templateArguments && { extra: options.templateArguments }),
      },
      size,
    )
    const state = { thinking: wants, tools: tools !== undefined }
    if (!addGenerationPrompt || !endsOpen(rendered)) return { ...rendered, startsInThink: false, ...state }
    if (wants) return { ...rendered, startsInThink: true, ...state }
    return { ...closeThinking(rendered), startsInThink: false, ...state }
  }

  /** Everything of a chat request but its prompt. Options are validated by the caller. */
  plan(rendered: RenderedPrompt, options: ChatOptions = {}): RequestPlan {
    const { thinking, startsInThink, tools } = rendered
    const hybrid = this.capabilities.thinking === 'hybrid'
    return planChat(this.context, options, { thinking, startsInThink, hybrid, tools })
  }

  /** The same for generate(): no template, every token is text. */
  planGenerate(options: GenerateOptions = {}): RequestPlan {
    return planGenerate(this.context, options)
  }

  /** A reader for the outputs of one request. */
  assembler(plan: RequestPlan): EventAssembler {
    return new EventAssembler(plan, this.tokenizer, { bytes: this.bytes })
  }

  /** thinking: false, thinkingBudget: 0 and (in the template) enable_thinking: false are one and the same. */
  private wantsThinking(options: RenderOptions): boolean {
    const { thinking, thinkingBudget } = options
    if (thinking !== undefined && typeof thinking !== 'boolean')
      throw invalid('thinking', 'true or false', String(thinking))
    if (this.capabilities.thinking === 'never') {
      if (thinking === true) {
        throw new Qwen3Error(
          'UNSUPPORTED',
          'This model does not think; leave `thinking` out or load a thinking model.',
          { subject: 'thinking' },
        )
      }
      return false
    }
    return thinking !== false && thinkingBudget !== 0
  }

  /** Renders a sample both ways: what differs, and how the prompts end, tells what the template does. */
  private detectThinking(hasTags: boolean): ChatCapabilities['thinking'] {
    if (this.template === undefined) return 'none'
    if (!hasTags) return 'never'
    const sample = (enableThinking: boolean) =>
      this.template!.render(
        { messages: [{ role: 'user', content: 'x' }], addGenerationPrompt: true, enableThinking },
        { values: 8, chars: 1 },
      )
    const on = sample(true)
    const off = sample(false)
    if (on.text !== off.text) return 'hybrid'
    return endsOpen(on) ? 'always' : 'never'
  }
}

/** What a chat needs to know of its model. */
export type ChatDescription = Pick<
  ModelDescription,
  'chatTemplate' | 'templateVariables' | 'generationConfig' | 'placeholder'
>

/** Whether the text ends in a think block that a template opened: `<think>` with nothing but blanks behind it. */
function endsOpen({ text, literal }: MarkedText): boolean {
  const trimmed = text.trimEnd()
  if (!trimmed.endsWith(OPEN)) return false
  const open = trimmed.length - OPEN.length
  // Text of a message that happens to end so is no tag.
  for (let i = 0; i < literal.length; i += 2) if (literal[i]! <= open && open < literal[i + 1]!) return false
  return true
}

function closeThinking({ text, literal }: MarkedText): MarkedText {
  const base = text.trimEnd()
  const spans: number[] = []
  for (let i = 0; i < literal.length; i += 2) if (literal[i]! < base.length) spans.push(literal[i]!, literal[i + 1]!)
  const closed = `${base}\n${CLOSED_AT_ONCE}`
  const close = closed.lastIndexOf(CLOSE)
  spans.push(base.length, close, close + CLOSE.length, closed.length)
  return { text: closed, literal: spans }
}
