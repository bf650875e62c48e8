// Types come with the package.
import { type ChatEvent, type ChatResult, Qwen3, Qwen3Error } from 'qwen3'

function show(event: ChatEvent): string {
  switch (event.type) {
    case 'thinking':
    case 'text':
      return event.text
    case 'toolCallDelta':
      return event.argumentsDelta
    case 'toolCall':
      return event.call.name
    case 'done':
      return `\n${event.result.usage.completionTokens} tokens\n`
  }
}

async function main(): Promise<void> {
  const model = await Qwen3.load('nano')
  try {
    const stream = model.chat('What is 12+30-7?', { thinkingBudget: 128, seed: 1 })
    for await (const event of stream) process.stdout.write(show(event))
    const result: ChatResult = await stream.result()
    console.log(result.finishReason)
  } catch (error) {
    if (error instanceof Qwen3Error && error.code === 'CONTEXT_OVERFLOW') console.error(error.message)
    else throw error
  } finally {
    await model.close()
  }
}

void main()
