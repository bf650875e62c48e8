/** Model names as directories. */
import { describeModel } from '../../lib/weights'

/** The folder that holds a model's tokenizer (nano's for `random:` models); the errors are those of loading it. */
export async function modelDirectory(name: string): Promise<string> {
  return (await describeModel(name)).directory
}
